// bias_act on the GPU. The same text is compiled as plain C++ for the tests, with host_cuda.h in place of CUDA.
#include <algorithm>
#include <type_traits>

#include "divider.h"
#include "launch.h"
#include "runtime.h"
#include "scalar.h"

namespace ggdr {
namespace {

template <class T>
struct Tensors {
    const T* incoming;
    const T* kept;
    const T* bias;
    T* out;
    std::int64_t size, step, channels;
    Divider by_step, by_channels;  // for sizes below 2^31

    // Where element i lies: its channel, and how far it is in it.
    template <class Index>
    GGDR_INLINE void locate(Index i, Index& channel, Index& within) const {
        if constexpr (sizeof(Index) == 4) {
            const std::uint32_t above = by_step.quotient(i);
            within = by_step.rest(i, above);
            channel = by_channels.rest(above, by_channels.quotient(above));
        } else {
            within = i % Index(step);
            channel = i / Index(step) % Index(channels);
        }
    }
};

// How the biases of a pack lie: there is none; one for all; in a row as the elements; or in any way, or none.
enum class Bias { none, one, row, any };

// Activations without a transcendental function have kernels of their own; ANY chooses at run time.
struct Any {};
template <Act ACT>
struct Only {};

template <int ORDER, Act ACT, class A>
GGDR_INLINE A element(Only<ACT>, Act, A incoming, A kept, const BiasActConstants<A>& c) {
    return bias_act_element<ACT, ORDER>(incoming, kept, c);
}

template <int ORDER, class A>
GGDR_INLINE A element(Any, Act act, A incoming, A kept, const BiasActConstants<A>& c) {
    switch (act) {
        case Act::linear: return bias_act_element<Act::linear, ORDER>(incoming, kept, c);
        case Act::relu: return bias_act_element<Act::relu, ORDER>(incoming, kept, c);
        case Act::lrelu: return bias_act_element<Act::lrelu, ORDER>(incoming, kept, c);
        case Act::tanh: return bias_act_element<Act::tanh, ORDER>(incoming, kept, c);
        case Act::sigmoid: return bias_act_element<Act::sigmoid, ORDER>(incoming, kept, c);
        case Act::elu: return bias_act_element<Act::elu, ORDER>(incoming, kept, c);
        case Act::selu: return bias_act_element<Act::selu, ORDER>(incoming, kept, c);
        case Act::softplus: return bias_act_element<Act::softplus, ORDER>(incoming, kept, c);
        case Act::swish: return bias_act_element<Act::swish, ORDER>(incoming, kept, c);
    }
    return A(0);
}

template <int ORDER, class WHICH, class T, class Index>
GGDR_INLINE void single(const Tensors<T>& t, const BiasActConstants<Accumulator<T>>& constants, Act act, Index i) {
    Accumulator<T> u = widen(t.kept[i]), from = 0;
    if (t.bias != nullptr) {
        Index channel, within;
        t.locate(i, channel, within);
        u += widen(t.bias[channel]);
    }
    if constexpr (ORDER > 0) from = widen(t.incoming[i]);
    t.out[i] = narrow<T>(element<ORDER>(WHICH(), act, from, u, constants));
}

// Elements one by one, in 64 bits.
template <class T, int ORDER, class WHICH>
__global__ void __launch_bounds__(256) bias_act_singles(Tensors<T> t, BiasActConstants<Accumulator<T>> constants, Act act) {
    const std::uint64_t size = std::uint64_t(t.size), stride = std::uint64_t(gridDim.x) * blockDim.x;
    for (std::uint64_t i = std::uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) single<ORDER, WHICH>(t, constants, act, i);
}

// Each thread takes a pack of SIZE elements in a row; the last one perhaps fewer.
template <class T, int ORDER, class WHICH, int SIZE, Bias BIAS>
__global__ void __launch_bounds__(256) bias_act_packs(Tensors<T> t, BiasActConstants<Accumulator<T>> constants, Act act) {
    using A = Accumulator<T>;
    using Values = Pack<T, SIZE>;
    const std::uint32_t size = std::uint32_t(t.size), i = (blockIdx.x * blockDim.x + threadIdx.x) * SIZE;
    if (i >= size) return;
    if (size - i < SIZE) {
#pragma unroll 1
        for (std::uint32_t k = i; k < size; ++k) single<ORDER, WHICH>(t, constants, act, k);
        return;
    }
    const Values kept = *reinterpret_cast<const Values*>(t.kept + i);
    Values incoming{}, biases{}, result;
    if constexpr (ORDER > 0) incoming = *reinterpret_cast<const Values*>(t.incoming + i);
    std::uint32_t channel = 0, within = 0;
    if constexpr (BIAS != Bias::none) t.locate(i, channel, within);
    if constexpr (BIAS == Bias::row) biases = *reinterpret_cast<const Values*>(t.bias + channel);
    if constexpr (BIAS == Bias::one) biases.values[0] = t.bias[channel];
#pragma unroll
    for (int k = 0; k < SIZE; ++k) {
        A u = widen(kept.values[k]), from = 0;
        if constexpr (BIAS == Bias::row || BIAS == Bias::one) u += widen(biases.values[BIAS == Bias::row ? k : 0]);
        if (BIAS == Bias::any && t.bias != nullptr) {
            u += widen(t.bias[channel]);
            if (++within == t.by_step.divisor) within = 0, channel = channel + 1 == t.by_channels.divisor ? 0 : channel + 1;
        }
        if constexpr (ORDER > 0) from = widen(incoming.values[k]);
        result.values[k] = narrow<T>(element<ORDER>(WHICH(), act, from, u, constants));
    }
    *reinterpret_cast<Values*>(t.out + i) = result;
}

constexpr int THREADS = 256;
constexpr std::int64_t MOST_BLOCKS = 1 << 20, MOST_DIVISOR = std::int64_t(1) << 31;

template <class T, int ORDER, class WHICH>
int run(const Tensors<T>& t, const BiasActCall& call, cudaStream_t stream) {
    constexpr int SIZE = 16 / int(sizeof(T));
    constexpr bool PLAIN = !std::is_same_v<WHICH, Any>;  // else the activation takes longer than its bias
    const BiasActConstants<Accumulator<T>> constants(call.alpha, call.gain, double(rounded<T>(call.clamp)));
    const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
    // Counting in 32 bits must not wrap when a thread steps past the end.
    const bool small = t.size < (std::int64_t(1) << 31) - SIZE * THREADS;
    if (!small || !aligned(t.kept) || !aligned(t.out) || (ORDER > 0 && !aligned(t.incoming))) {
        const std::int64_t blocks = std::min(ceil_div(t.size, THREADS), MOST_BLOCKS);
        GGDR_LAUNCH((bias_act_singles<T, ORDER, WHICH>), blocks, THREADS, stream, t, constants, call.act);
        return int(cudaGetLastError());
    }
    const auto launch = [&](auto kernel) {
        GGDR_LAUNCH(kernel, ceil_div(t.size, THREADS * SIZE), THREADS, stream, t, constants, call.act);
        return int(cudaGetLastError());
    };
    if constexpr (PLAIN && ORDER == 0) {
        if (t.bias != nullptr && t.step % SIZE == 0) return launch(bias_act_packs<T, ORDER, WHICH, SIZE, Bias::one>);
        if (t.bias != nullptr && t.step == 1 && t.channels % SIZE == 0 && aligned(t.bias)) return launch(bias_act_packs<T, ORDER, WHICH, SIZE, Bias::row>);
    }
    if constexpr (PLAIN && ORDER > 0) {
        if (t.bias == nullptr) return launch(bias_act_packs<T, ORDER, WHICH, SIZE, Bias::none>);
    }
    return launch(bias_act_packs<T, ORDER, WHICH, SIZE, Bias::any>);
}

template <class T, int ORDER>
int choose(const Tensors<T>& t, const BiasActCall& call, cudaStream_t stream) {
    if constexpr (ORDER < 2) {
        if (call.act == Act::linear) return run<T, ORDER, Only<Act::linear>>(t, call, stream);
        if (call.act == Act::relu) return run<T, ORDER, Only<Act::relu>>(t, call, stream);
        if (call.act == Act::lrelu) return run<T, ORDER, Only<Act::lrelu>>(t, call, stream);
    }
    return run<T, ORDER, Any>(t, call, stream);
}

template <class T>
int choose(const void* incoming, const void* kept, const void* bias, void* out, const BiasActCall& call, void* stream_) {
    const Tensors<T> t{static_cast<const T*>(incoming), static_cast<const T*>(kept), static_cast<const T*>(bias), static_cast<T*>(out),
                       call.size, call.step, call.channels,
                       Divider(std::min({call.step, call.size, MOST_DIVISOR})), Divider(std::min({call.channels, call.size, MOST_DIVISOR}))};
    const auto stream = static_cast<cudaStream_t>(stream_);
    if (call.order == 0) return choose<T, 0>(t, call, stream);
    if (call.order == 1) return choose<T, 1>(t, call, stream);
    return choose<T, 2>(t, call, stream);
}

}  // namespace

int launch_bias_act(
    Scalar type, const void* incoming, const void* kept, const void* bias, void* out, const BiasActCall& call, void* stream) {
    switch (type) {
        case Scalar::float16: return choose<Half>(incoming, kept, bias, out, call, stream);
        case Scalar::bfloat16: return choose<BFloat16>(incoming, kept, bias, out, call, stream);
        case Scalar::float32: return choose<float>(incoming, kept, bias, out, call, stream);
        case Scalar::float64: return choose<double>(incoming, kept, bias, out, call, stream);
    }
    return -1;
}

}  // namespace ggdr
