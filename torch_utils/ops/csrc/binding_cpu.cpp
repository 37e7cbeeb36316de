// The ops' schemas, and their CPU implementations. Fake implementations and gradients are in native.py.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "binding.h"
#include "cpu.h"

namespace ggdr {
namespace {

void in_parallel(std::int64_t count, std::int64_t grain, const Range& range) { at::parallel_for(0, count, grain, range); }

at::Tensor upfirdn2d(const at::Tensor& x, const std::optional<at::Tensor>& f, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef padding,
                     bool flip_filter, double gain) {
    const Upfirdn2dCall call(x, f, up, down, padding, flip_filter, gain);
    if (call.out.numel() > 0)
        upfirdn2d_cpu(scalar_of(x, "upfirdn2d"), call.in.const_data_ptr(), call.filter.const_data_ptr(), call.out.mutable_data_ptr(), call.shape,
                      is_channels_last(call.in), in_parallel);
    return call.out;
}

at::Tensor run_bias_act(const BiasActTensorsCall& call) {
    bias_act_cpu(scalar_of(call.kept, "bias_act"), call.incoming_data(), call.kept.const_data_ptr(), call.bias_data(),
                 call.out.mutable_data_ptr(), call.call, in_parallel);
    return call.out;
}

at::Tensor bias_act(const at::Tensor& x, const std::optional<at::Tensor>& b, std::int64_t dim, std::string_view act, double alpha, double gain, double clamp) {
    return run_bias_act({std::nullopt, x, b, dim, act, alpha, gain, clamp, 0});
}

at::Tensor bias_act_grad(const at::Tensor& dy, const at::Tensor& kept, const std::optional<at::Tensor>& b, std::int64_t dim, std::string_view act,
                         double alpha, double gain, double clamp, std::int64_t order) {
    return run_bias_act({dy, kept, b, dim, act, alpha, gain, clamp, order});
}

}  // namespace
}  // namespace ggdr

TORCH_LIBRARY(ggdr, m) {
    m.def("upfirdn2d(Tensor x, Tensor? f, int[2] up, int[2] down, SymInt[4] padding, bool flip_filter, float gain) -> Tensor",
          {at::Tag::pt2_compliant_tag});
    // clamp < 0: none
    m.def("bias_act(Tensor x, Tensor? b, int dim, str act, float alpha, float gain, float clamp) -> Tensor", {at::Tag::pt2_compliant_tag});
    m.def("bias_act_grad(Tensor dy, Tensor kept, Tensor? b, int dim, str act, float alpha, float gain, float clamp, int order) -> Tensor",
          {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(ggdr, CPU, m) {
    m.impl("upfirdn2d", &ggdr::upfirdn2d);
    m.impl("bias_act", &ggdr::bias_act);
    m.impl("bias_act_grad", &ggdr::bias_act_grad);
}
