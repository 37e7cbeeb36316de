// The ops' CUDA implementations: torch's tensors and streams to the launchers of the .cu files.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/library.h>

#include "binding.h"

namespace ggdr {
namespace {

// A failure may be an earlier kernel's, so it is raised as PyTorch raises its own, torch.AcceleratorError.
void check(int status) { C10_CUDA_CHECK(static_cast<cudaError_t>(status)); }

void run_upfirdn2d(const Upfirdn2dCall& call, const Upfirdn2dShape& shape, const at::Tensor& in, const at::Tensor& out) {
    check(launch_upfirdn2d(scalar_of(in, "upfirdn2d"), in.const_data_ptr(), call.filter.const_data_ptr(), out.mutable_data_ptr(), shape,
                           c10::cuda::getCurrentCUDAStream().stream()));
}

// One axis of a shape taken alone: the other is left as it is.
Axis unchanged(std::int64_t size) { return {size, size, 1, 1, 0, 1}; }

at::Tensor upfirdn2d(const at::Tensor& x, const std::optional<at::Tensor>& f, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef padding,
                     bool flip_filter, double gain) {
    const c10::cuda::CUDAGuard guard(x.device());
    const Upfirdn2dCall call(x, f, up, down, padding, flip_filter, gain);
    if (call.out.numel() == 0) return call.out;
    if (!call.shape.separable || upfirdn2d_is_tiled(scalar_of(call.in, "upfirdn2d"), call.shape)) {
        run_upfirdn2d(call, call.shape, call.in, call.out);
        return call.out;
    }
    const auto format = is_channels_last(call.in) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    const at::Tensor middle = at::empty({x.size(0), x.size(1), x.size(2), call.shape.x.out}, x.options(), format);
    Upfirdn2dShape across = call.shape, along = call.shape;
    across.separable = along.separable = false;
    across.gain = 1;
    across.y = unchanged(x.size(2));
    along.x = unchanged(call.shape.x.out);
    for (int i = 0; i < 4; ++i) across.out_stride[i] = along.in_stride[i] = middle.stride(i);
    run_upfirdn2d(call, across, call.in, middle);
    run_upfirdn2d(call, along, middle, call.out);
    return call.out;
}

at::Tensor run_bias_act(const BiasActTensorsCall& call) {
    if (call.call.size == 0) return call.out;
    check(launch_bias_act(scalar_of(call.kept, "bias_act"), call.incoming_data(), call.kept.const_data_ptr(), call.bias_data(),
                          call.out.mutable_data_ptr(), call.call, c10::cuda::getCurrentCUDAStream().stream()));
    return call.out;
}

at::Tensor bias_act(const at::Tensor& x, const std::optional<at::Tensor>& b, std::int64_t dim, std::string_view act, double alpha, double gain, double clamp) {
    const c10::cuda::CUDAGuard guard(x.device());
    return run_bias_act({std::nullopt, x, b, dim, act, alpha, gain, clamp, 0});
}

at::Tensor bias_act_grad(const at::Tensor& dy, const at::Tensor& kept, const std::optional<at::Tensor>& b, std::int64_t dim, std::string_view act,
                         double alpha, double gain, double clamp, std::int64_t order) {
    const c10::cuda::CUDAGuard guard(kept.device());
    return run_bias_act({dy, kept, b, dim, act, alpha, gain, clamp, order});
}

}  // namespace
}  // namespace ggdr

TORCH_LIBRARY_IMPL(ggdr, CUDA, m) {
    m.impl("upfirdn2d", &ggdr::upfirdn2d);
    m.impl("bias_act", &ggdr::bias_act);
    m.impl("bias_act_grad", &ggdr::bias_act_grad);
}
