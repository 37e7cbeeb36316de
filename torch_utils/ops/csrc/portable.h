// What lets one text be device code under nvcc and plain C++ everywhere else.
#pragma once

#if defined(__CUDACC__)
#define GGDR_INLINE __host__ __device__ __forceinline__
#else
#define GGDR_INLINE inline
#endif
