// bias_act on the CPU: loops that the compiler vectorises.
//
// Tensors are taken as they lie in memory; element i has the bias i / step % channels.
#include <algorithm>
#include <cstdint>

#include "cpu.h"
#include "scalar.h"

namespace ggdr {
namespace {

template <class T>
struct BiasActTensors {
    const T* incoming;  // orders 1 and 2: what multiplies the derivative
    const T* kept;      // order 0: x; else what the forward pass kept
    const T* bias;      // null for none; added to kept
    T* out;
    std::int64_t step, channels;
};

// n elements; bias[i * BIAS_STEP] is added, or nothing for BIAS_STEP < 0.
template <Act ACT, int ORDER, int BIAS_STEP, class T>
void bias_act_run(const T* incoming, const T* kept, const T* bias, T* out, std::int64_t n, const BiasActConstants<Accumulator<T>>& constants) {
    using A = Accumulator<T>;
    const BiasActConstants<A> c = constants;
    const A same = BIAS_STEP == 0 ? widen(bias[0]) : A(0);
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
        A u = widen(kept[i]);
        if constexpr (BIAS_STEP == 0) u += same;
        if constexpr (BIAS_STEP == 1) u += widen(bias[i]);
        A from = 0;
        if constexpr (ORDER > 0) from = widen(incoming[i]);
        out[i] = narrow<T>(bias_act_element<ACT, ORDER>(from, u, c));
    }
}

// Elements begin .. end-1.
template <Act ACT, int ORDER, class T>
void bias_act_range(const BiasActTensors<T>& t, const BiasActConstants<Accumulator<T>>& c, std::int64_t begin, std::int64_t end) {
    const auto incoming = [&](std::int64_t i) { return ORDER > 0 ? t.incoming + i : nullptr; };
    if (t.bias == nullptr) return bias_act_run<ACT, ORDER, -1>(incoming(begin), t.kept + begin, t.bias, t.out + begin, end - begin, c);
    for (std::int64_t i = begin, n; i < end; i += n) {
        if (t.step == 1) {
            const std::int64_t channel = i % t.channels;
            n = std::min(t.channels - channel, end - i);
            bias_act_run<ACT, ORDER, 1>(incoming(i), t.kept + i, t.bias + channel, t.out + i, n, c);
        } else {
            n = std::min(t.step - i % t.step, end - i);
            bias_act_run<ACT, ORDER, 0>(incoming(i), t.kept + i, t.bias + i / t.step % t.channels, t.out + i, n, c);
        }
    }
}

template <int ORDER, class T>
void bias_act_range(Act act, const BiasActTensors<T>& t, const BiasActConstants<Accumulator<T>>& c, std::int64_t begin, std::int64_t end) {
    switch (act) {
        case Act::linear: return bias_act_range<Act::linear, ORDER>(t, c, begin, end);
        case Act::relu: return bias_act_range<Act::relu, ORDER>(t, c, begin, end);
        case Act::lrelu: return bias_act_range<Act::lrelu, ORDER>(t, c, begin, end);
        case Act::tanh: return bias_act_range<Act::tanh, ORDER>(t, c, begin, end);
        case Act::sigmoid: return bias_act_range<Act::sigmoid, ORDER>(t, c, begin, end);
        case Act::elu: return bias_act_range<Act::elu, ORDER>(t, c, begin, end);
        case Act::selu: return bias_act_range<Act::selu, ORDER>(t, c, begin, end);
        case Act::softplus: return bias_act_range<Act::softplus, ORDER>(t, c, begin, end);
        case Act::swish: return bias_act_range<Act::swish, ORDER>(t, c, begin, end);
    }
}

template <class T>
void bias_act_range(int order, Act act, const BiasActTensors<T>& t, const BiasActConstants<Accumulator<T>>& c, std::int64_t begin, std::int64_t end) {
    if (order == 0) return bias_act_range<0>(act, t, c, begin, end);
    if (order == 1) return bias_act_range<1>(act, t, c, begin, end);
    return bias_act_range<2>(act, t, c, begin, end);
}

template <class T>
void run(const void* incoming, const void* kept, const void* bias, void* out, const BiasActCall& call, const Parallel& parallel) {
    const BiasActTensors<T> tensors{static_cast<const T*>(incoming), static_cast<const T*>(kept), static_cast<const T*>(bias),
                                    static_cast<T*>(out), call.step, call.channels};
    const BiasActConstants<Accumulator<T>> constants(call.alpha, call.gain, double(rounded<T>(call.clamp)));
    parallel(call.size, CPU_GRAIN, [&](std::int64_t begin, std::int64_t end) {
        bias_act_range(call.order, call.act, tensors, constants, begin, end);
    });
}

}  // namespace

void bias_act_cpu(
    Scalar type, const void* incoming, const void* kept, const void* bias, void* out, const BiasActCall& call, const Parallel& parallel) {
    switch (type) {
        case Scalar::float16: return run<Half>(incoming, kept, bias, out, call, parallel);
        case Scalar::bfloat16: return run<BFloat16>(incoming, kept, bias, out, call, parallel);
        case Scalar::float32: return run<float>(incoming, kept, bias, out, call, parallel);
        case Scalar::float64: return run<double>(incoming, kept, bias, out, call, parallel);
    }
}

}  // namespace ggdr
