// bias_act on the GPU. The same text is compiled as plain C++ for the tests, with host_cuda.h in place of CUDA.
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
};

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

// Each thread takes SIZE elements in a row. Index holds the number of elements.
template <class T, int ORDER, class WHICH, int SIZE, class Index>
__global__ void __launch_bounds__(256) bias_act_kernel(Tensors<T> t, BiasActConstants<Accumulator<T>> constants, Act act) {
    using A = Accumulator<T>;
    using Values = Pack<T, SIZE>;
    const Index size = Index(t.size), step = Index(t.step), channels = Index(t.channels);
    for (Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * SIZE; i < size; i += Index(gridDim.x) * blockDim.x * SIZE) {
        const int count = size - i < Index(SIZE) ? int(size - i) : SIZE;
        Values kept, incoming, result;
        if (count == SIZE) {
            kept = *reinterpret_cast<const Values*>(t.kept + i);
            if constexpr (ORDER > 0) incoming = *reinterpret_cast<const Values*>(t.incoming + i);
        } else {
            for (int k = 0; k < count; ++k) {
                kept.values[k] = t.kept[i + k];
                if constexpr (ORDER > 0) incoming.values[k] = t.incoming[i + k];
            }
        }
        Index within = i % step, channel = i / step % channels;
#pragma unroll
        for (int k = 0; k < SIZE; ++k) {
            if (k >= count) break;
            A u = widen(kept.values[k]), from = 0;
            if (t.bias != nullptr) {
                u += widen(t.bias[channel]);
                if (++within == step) within = 0, channel = channel + 1 == channels ? 0 : channel + 1;
            }
            if constexpr (ORDER > 0) from = widen(incoming.values[k]);
            result.values[k] = narrow<T>(element<ORDER>(WHICH(), act, from, u, constants));
        }
        if (count == SIZE) {
            *reinterpret_cast<Values*>(t.out + i) = result;
        } else {
            for (int k = 0; k < count; ++k) t.out[i + k] = result.values[k];
        }
    }
}

constexpr int THREADS = 256;
constexpr std::int64_t MOST_BLOCKS = 1 << 20;

template <class T, int ORDER, class WHICH>
int run(const Tensors<T>& t, const BiasActCall& call, cudaStream_t stream) {
    constexpr int SIZE = 16 / int(sizeof(T));
    const BiasActConstants<Accumulator<T>> constants(call.alpha, call.gain, double(rounded<T>(call.clamp)));
    const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
    const auto blocks = [&](int size) {
        const std::int64_t needed = ceil_div(t.size, std::int64_t(THREADS) * size);
        return needed < MOST_BLOCKS ? needed : MOST_BLOCKS;
    };
    // Counting in 32 bits must not wrap when a thread steps past the end.
    const bool small = t.size < (std::int64_t(1) << 31) - SIZE * THREADS;
    if (small && aligned(t.kept) && aligned(t.out) && (ORDER == 0 || aligned(t.incoming)))
        GGDR_LAUNCH((bias_act_kernel<T, ORDER, WHICH, SIZE, std::uint32_t>), blocks(SIZE), THREADS, stream, t, constants, call.act);
    else
        GGDR_LAUNCH((bias_act_kernel<T, ORDER, WHICH, 1, std::uint64_t>), blocks(1), THREADS, stream, t, constants, call.act);
    return int(cudaGetLastError());
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
                       call.size, call.step, call.channels};
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
