// The interface between the binding, which knows torch, and the kernels' files, which do not.
#pragma once

#include <cstdint>

#include "activation.h"
#include "axis.h"

namespace ggdr {

enum class Scalar : int { float16, bfloat16, float32, float64 };

struct Upfirdn2dShape {
    std::int64_t batch, channels;
    Axis x, y;
    std::int64_t in_stride[4], out_stride[4];  // n, c, y, x, in elements; the output is contiguous or channels-last
    bool separable;                            // the filter is [taps], used along both axes, else [y.taps][x.taps]
    bool correlate;                            // else the taps are taken in reverse: convolution
    double gain;
};

// Whether a kernel filters along both axes in one pass. Where not, a separable filter takes one launch for each axis.
bool upfirdn2d_is_tiled(Scalar type, const Upfirdn2dShape& shape);

// `filter` is double for float64, else float. Returns a cudaError_t, 0 on success.
int launch_upfirdn2d(Scalar type, const void* in, const void* filter, void* out, const Upfirdn2dShape& shape, void* stream);

struct BiasActCall {
    std::int64_t size;           // elements; all tensors lie in memory in the same order
    std::int64_t step, channels;  // element i has the bias i / step % channels
    Act act;
    int order;  // 0: the op; 1 and 2: see bias_act_element
    double alpha, gain, clamp;  // clamp < 0: none
};

// `bias` may be null, as may `incoming` for order 0. Returns a cudaError_t, 0 on success.
int launch_bias_act(
    Scalar type, const void* incoming, const void* kept, const void* bias, void* out, const BiasActCall& call, void* stream);

}  // namespace ggdr
