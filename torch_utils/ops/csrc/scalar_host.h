// Half-precision numbers in plain C++, bit for bit torch's. No branches: compilers turn loops over these into vector code.
#pragma once

#include <cstdint>
#include <cstring>

namespace ggdr {

struct Half {
    std::uint16_t bits;
};

struct BFloat16 {
    std::uint16_t bits;
};

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float from_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float to_float(BFloat16 x) { return from_bits(std::uint32_t(x.bits) << 16); }

// Multiplying by a power of two moves the exponent to float's range; numbers below half's normal range lie in the
// mantissa of 0.5 instead and are freed of it by a subtraction.
inline float to_float(Half x) {
    const std::uint32_t word = std::uint32_t(x.bits) << 16;
    const std::uint32_t magnitude = word + word;
    const float normal = from_bits((magnitude >> 4) + (0xE0u << 23)) * 0x1p-112f;
    const float subnormal = from_bits((magnitude >> 17) | (126u << 23)) - 0.5f;
    return from_bits((word & 0x80000000u) | (magnitude < (1u << 27) ? bits_of(subnormal) : bits_of(normal)));
}

inline BFloat16 to_bfloat16(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    return {std::uint16_t((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded)};
}

// Adding a power of two that is 2^10 of the result's last places rounds in float's own adder; the first product overflows
// to infinity where half would.
inline Half to_half(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t magnitude = bits + bits;
    const float scaled = (from_bits(bits & 0x7FFFFFFFu) * 0x1p+112f) * 0x1p-110f;
    const std::uint32_t exponent = magnitude & 0xFF000000u;
    const std::uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
    const std::uint32_t sum = bits_of(from_bits((bias >> 1) + 0x07800000u) + scaled);
    const std::uint32_t rounded = ((sum >> 13) & 0x7C00u) + (sum & 0x0FFFu);
    return {std::uint16_t(((bits & 0x80000000u) >> 16) | (magnitude > 0xFF000000u ? 0x7E00u : rounded))};
}

}  // namespace ggdr
