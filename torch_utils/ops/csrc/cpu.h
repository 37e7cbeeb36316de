// The interface between the binding and the CPU loops, which know nothing of torch.
#pragma once

#include <cstdint>
#include <functional>

#include "launch.h"

namespace ggdr {

// Calls range(begin, end) for ranges of at least `grain` that make up 0 .. count-1, in several threads or in one.
using Range = std::function<void(std::int64_t begin, std::int64_t end)>;
using Parallel = std::function<void(std::int64_t count, std::int64_t grain, const Range& range)>;

constexpr std::int64_t CPU_GRAIN = 1 << 15;  // numbers written by a thread, at least

// As launch_upfirdn2d, for dense tensors that are both contiguous or both channels-last.
void upfirdn2d_cpu(
    Scalar type, const void* in, const void* filter, void* out, const Upfirdn2dShape& shape, bool channels_last, const Parallel& parallel);

// As launch_bias_act.
void bias_act_cpu(
    Scalar type, const void* incoming, const void* kept, const void* bias, void* out, const BiasActCall& call, const Parallel& parallel);

}  // namespace ggdr
