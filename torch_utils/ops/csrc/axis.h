// Index arithmetic of upfirdn2d along one axis.
#pragma once

#include <cstdint>

#include "portable.h"

namespace ggdr {

// a / b rounded up, for b > 0 and any a
GGDR_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b > 0); }

// Output position o sums taps k = 0 .. taps-1 over positions o * down - pad + k of the upsampled axis, of which every
// `up`-th holds an input pixel. Negative `pad` crops.
struct Axis {
    std::int64_t in, out, up, down, pad, taps;

    GGDR_INLINE std::int64_t first_input(std::int64_t o) const { return ceil_div(o * down - pad, up); }

    // the first tap that meets an input position
    GGDR_INLINE std::int64_t first_tap(std::int64_t o) const { return first_input(o) * up - (o * down - pad); }
};

}  // namespace ggdr
