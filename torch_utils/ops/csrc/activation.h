// Activations and their derivatives, for CPU and GPU alike.
//
// The derivative comes from what the forward pass keeps: from the result v = act(u) where that determines it, because the
// result is kept by the next layer anyway; from u for softplus and swish, whose result does not determine it.
#pragma once

#include <cmath>

#include "portable.h"

namespace ggdr {

// The order of torch_utils.ops.bias_act.ACTIVATIONS.
enum class Act : int { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };
constexpr int ACTS = 9;

GGDR_INLINE constexpr bool keeps_input(Act act) { return act == Act::softplus || act == Act::swish; }

constexpr double SELU_SCALE = 1.0507009873554804934193349852946;
constexpr double SELU_ALPHA = 1.6732632423543772848170429916717;

template <class A>
GGDR_INLINE A logistic(A u) {
    return A(1) / (A(1) + std::exp(-u));
}

// act(u)
template <Act ACT, class A>
GGDR_INLINE A activation(A u, A alpha) {
    if constexpr (ACT == Act::relu) return u < A(0) ? A(0) : u;  // NaN stays
    if constexpr (ACT == Act::lrelu) return u > A(0) ? u : u * alpha;
    if constexpr (ACT == Act::tanh) return std::tanh(u);
    if constexpr (ACT == Act::sigmoid) return logistic(u);
    if constexpr (ACT == Act::elu) return u > A(0) ? u : std::expm1(u);
    if constexpr (ACT == Act::selu) return A(SELU_SCALE) * (u > A(0) ? u : A(SELU_ALPHA) * std::expm1(u));
    if constexpr (ACT == Act::softplus) return u > A(20) ? u : std::log1p(std::exp(u));  // torch's threshold
    if constexpr (ACT == Act::swish) return u * logistic(u);
    return u;
}

// d act(u) / du as a function of what is kept
template <Act ACT, class A>
GGDR_INLINE A slope(A kept, A alpha) {
    if constexpr (ACT == Act::relu) return kept > A(0) ? A(1) : A(0);
    if constexpr (ACT == Act::lrelu) return kept > A(0) ? A(1) : alpha;
    if constexpr (ACT == Act::tanh) return A(1) - kept * kept;
    if constexpr (ACT == Act::sigmoid) return kept * (A(1) - kept);
    if constexpr (ACT == Act::elu) return kept > A(0) ? A(1) : kept + A(1);
    if constexpr (ACT == Act::selu) return kept > A(0) ? A(SELU_SCALE) : kept + A(SELU_SCALE * SELU_ALPHA);
    if constexpr (ACT == Act::softplus) return kept > A(20) ? A(1) : logistic(kept);
    if constexpr (ACT == Act::swish) {
        const A s = logistic(kept);
        return s + kept * s * (A(1) - s);
    }
    return A(1);
}

// the derivative of slope() by what is kept
template <Act ACT, class A>
GGDR_INLINE A curvature(A kept, A) {
    if constexpr (ACT == Act::tanh) return A(-2) * kept;
    if constexpr (ACT == Act::sigmoid) return A(1) - A(2) * kept;
    if constexpr (ACT == Act::elu || ACT == Act::selu) return kept > A(0) ? A(0) : A(1);
    if constexpr (ACT == Act::softplus) {
        const A s = logistic(kept);
        return kept > A(20) ? A(0) : s * (A(1) - s);
    }
    if constexpr (ACT == Act::swish) {
        const A s = logistic(kept);
        return s * (A(1) - s) * (A(2) + kept * (A(1) - A(2) * s));
    }
    return A(0);
}

// The constants of one call. `clamp` must be a number that the result's type holds, else a result on it would not show.
template <class A>
struct BiasActConstants {
    A alpha, gain, inverse_gain, clamp;
    bool clamps;

    BiasActConstants(double alpha_, double gain_, double clamp_)
        : alpha(A(alpha_)), gain(A(gain_)), inverse_gain(gain_ == 0 ? A(0) : A(1 / gain_)), clamp(A(clamp_)), clamps(clamp_ >= 0) {}
};

// y = clamp(gain * act(u)), for ORDER 0 (`incoming` is not used; kept is u).
// ORDER 1 and 2: `incoming` times the first derivative of y by u, or that one's derivative by what is kept; kept is y, or u.
// Where y lies on the clamp the derivatives are zero.
template <Act ACT, int ORDER, class A>
GGDR_INLINE A bias_act_element(A incoming, A kept, const BiasActConstants<A>& c) {
    if constexpr (ORDER == 0) {
        const A y = activation<ACT>(kept, c.alpha) * c.gain;
        if (!c.clamps) return y;
        return y < -c.clamp ? -c.clamp : y > c.clamp ? c.clamp : y;  // NaN stays
    } else {
        const A y = keeps_input(ACT) && c.clamps ? activation<ACT>(kept, c.alpha) * c.gain : kept;
        const A v = keeps_input(ACT) ? kept : kept * c.inverse_gain;
        A factor = ORDER == 1 ? slope<ACT>(v, c.alpha) * c.gain : curvature<ACT>(v, c.alpha) * (keeps_input(ACT) ? c.gain : A(1));
        if (c.clamps && !(std::abs(y) < c.clamp)) factor = A(0);
        return incoming * factor;
    }
}

}  // namespace ggdr
