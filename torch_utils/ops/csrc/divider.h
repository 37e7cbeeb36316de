// Division by a number that one launch keeps: a multiplication and a shift in place of the division's many instructions.
#pragma once

#include <cstdint>

#include "portable.h"

namespace ggdr {

// n / divisor for 0 <= n < 2^31 and 1 <= divisor <= 2^31.
struct Divider {
    std::uint32_t divisor = 1, factor = 1;
    int shift = 0;

    Divider() = default;
    explicit Divider(std::int64_t value) : divisor(std::uint32_t(value)) {
        while ((std::int64_t(1) << shift) < value) ++shift;
        const std::uint64_t missing = (std::uint64_t(1) << shift) - std::uint64_t(value);
        factor = std::uint32_t((missing << 32) / std::uint64_t(value) + 1);
    }

    GGDR_INLINE std::uint32_t quotient(std::uint32_t n) const {
        return (std::uint32_t((std::uint64_t(n) * factor) >> 32) + n) >> shift;
    }
    GGDR_INLINE std::uint32_t rest(std::uint32_t n, std::uint32_t quotient) const { return n - quotient * divisor; }
};

}  // namespace ggdr
