// CUDA's runtime, or what stands in for it where the kernels are compiled as plain C++.
//
// Kernels use one-dimensional grids and blocks, __syncthreads(), and shared memory declared by GGDR_SHARED, which aligns
// it for packs of 16 bytes.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define GGDR_SHARED(TYPE, NAME, COUNT) __shared__ alignas(16) TYPE NAME[COUNT]
#define GGDR_LAUNCH(KERNEL, BLOCKS, THREADS, STREAM, ...) \
    (KERNEL)<<<static_cast<unsigned>(BLOCKS), THREADS, 0, STREAM>>>(__VA_ARGS__)


// Has an index of 64 bits computed here. Else the compiler computes it again in every branch that uses it.
#define GGDR_KEEP(INDEX) asm volatile("" : "+l"(INDEX))

#else

#include "host_cuda.h"

#endif
