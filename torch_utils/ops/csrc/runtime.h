// CUDA's runtime, or what stands in for it where the kernels are compiled as plain C++.
//
// Kernels use one-dimensional grids and blocks, __syncthreads(), and shared memory declared by GGDR_SHARED.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define GGDR_SHARED(TYPE, NAME, COUNT) __shared__ TYPE NAME[COUNT]
#define GGDR_LAUNCH(KERNEL, BLOCKS, THREADS, STREAM, ...) \
    (KERNEL)<<<static_cast<unsigned>(BLOCKS), THREADS, 0, STREAM>>>(__VA_ARGS__)

#else

#include "host_cuda.h"

#endif
