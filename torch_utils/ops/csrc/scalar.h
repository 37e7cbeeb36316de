// Element types and their accumulators: CUDA's own half-precision types under nvcc, plain structs elsewhere.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "scalar_host.h"
#endif

#include "portable.h"

namespace ggdr {

#if defined(__CUDACC__)
using Half = __half;
using BFloat16 = __nv_bfloat16;
GGDR_INLINE float to_float(Half x) { return __half2float(x); }
GGDR_INLINE float to_float(BFloat16 x) { return __bfloat162float(x); }
GGDR_INLINE Half to_half(float x) { return __float2half_rn(x); }
GGDR_INLINE BFloat16 to_bfloat16(float x) { return __float2bfloat16_rn(x); }
#endif

// What sums of T are formed in.
template <class T>
struct AccumulatorOf {
    using type = float;
};
template <>
struct AccumulatorOf<double> {
    using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

GGDR_INLINE float widen(float x) { return x; }
GGDR_INLINE double widen(double x) { return x; }
GGDR_INLINE float widen(Half x) { return to_float(x); }
GGDR_INLINE float widen(BFloat16 x) { return to_float(x); }

template <class T>
GGDR_INLINE T narrow(Accumulator<T> x) {
    return x;
}
template <>
GGDR_INLINE Half narrow<Half>(float x) {
    return to_half(x);
}
template <>
GGDR_INLINE BFloat16 narrow<BFloat16>(float x) {
    return to_bfloat16(x);
}

// What is read and written at once.
template <class T, int SIZE>
struct alignas(sizeof(T) * SIZE) Pack {
    T values[SIZE];
};

// x as T would hold it
template <class T>
GGDR_INLINE Accumulator<T> rounded(double x) {
    return widen(narrow<T>(Accumulator<T>(x)));
}

}  // namespace ggdr
