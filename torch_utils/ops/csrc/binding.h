// What the bindings of all devices share: torch's tensors to the kernels' descriptions.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <c10/util/string_view.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "launch.h"

namespace ggdr {

inline Scalar scalar_of(const at::Tensor& x, const char* op) {
    switch (x.scalar_type()) {
        case at::kHalf: return Scalar::float16;
        case at::kBFloat16: return Scalar::bfloat16;
        case at::kFloat: return Scalar::float32;
        case at::kDouble: return Scalar::float64;
        default: TORCH_CHECK_TYPE(false, op, ": ", x.scalar_type(), " is not compiled; use float16, bfloat16, float32 or float64");
    }
}

inline bool is_channels_last(const at::Tensor& x) { return !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast); }

// Tensors and shape of one upfirdn2d call, checked.
struct Upfirdn2dCall {
    at::Tensor in, filter, out;
    Upfirdn2dShape shape;

    Upfirdn2dCall(const at::Tensor& x, const std::optional<at::Tensor>& f, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef padding,
                  bool flip_filter, double gain) {
        TORCH_CHECK_VALUE(x.dim() == 4, "upfirdn2d: expected [N, C, H, W], got ", x.sizes());
        TORCH_CHECK_VALUE(up.size() == 2 && down.size() == 2 && padding.size() == 4, "upfirdn2d: expected 2 factors and 4 paddings");
        TORCH_CHECK_VALUE(std::min({up[0], up[1], down[0], down[1]}) >= 1, "upfirdn2d: factors must be at least 1");
        const auto taps_type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
        if (f.has_value()) {
            TORCH_CHECK_VALUE((f->dim() == 1 || f->dim() == 2) && f->numel() > 0, "upfirdn2d: expected a filter [taps] or [height, width], got ", f->sizes());
            TORCH_CHECK_VALUE(f->device() == x.device(), "upfirdn2d: the filter is on ", f->device(), ", the images on ", x.device());
            filter = f->to(taps_type).contiguous();
        } else {
            filter = at::ones({1, 1}, x.options().dtype(taps_type));
        }
        in = x.is_contiguous() || is_channels_last(x) ? x : x.contiguous();
        const auto axis = [&](int dim, int i) {
            const std::int64_t taps = filter.dim() == 1 ? filter.size(0) : filter.size(dim - 2);
            const std::int64_t size = x.size(dim) * up[i] + padding[2 * i] + padding[2 * i + 1] - taps;
            TORCH_CHECK_VALUE(size >= 0, "upfirdn2d: ", x.sizes(), " upsampled by ", up, " and padded by ", padding, " is smaller than the filter ", filter.sizes());
            return Axis{x.size(dim), size / down[i] + 1, up[i], down[i], padding[2 * i], taps};
        };
        shape = {x.size(0), x.size(1), axis(3, 0), axis(2, 1), {}, {}, filter.dim() == 1, flip_filter, gain};
        out = at::empty({x.size(0), x.size(1), shape.y.out, shape.x.out}, x.options(),
                        is_channels_last(in) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
        for (int i = 0; i < 4; ++i) shape.in_stride[i] = in.stride(i), shape.out_stride[i] = out.stride(i);
    }
};

inline Act act_of(std::string_view name) {
    constexpr std::array<std::string_view, ACTS> names{"linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"};
    const auto found = std::find(names.begin(), names.end(), name);
    TORCH_CHECK_VALUE(found != names.end(), "bias_act: unknown activation '", std::string(name), "'");
    return Act(found - names.begin());
}

// x without gaps, in the order of its strides: the layout that at::empty_like gives.
inline at::Tensor dense(const at::Tensor& x) {
    return x.is_non_overlapping_and_dense() ? x : at::empty_like(x).copy_(x);
}

// Tensors and constants of one bias_act call or of one of its derivatives, checked.
struct BiasActTensorsCall {
    at::Tensor incoming, kept, bias, out;
    BiasActCall call;

    BiasActTensorsCall(const std::optional<at::Tensor>& incoming_, const at::Tensor& kept_, const std::optional<at::Tensor>& b, std::int64_t dim,
                       std::string_view act, double alpha, double gain, double clamp, std::int64_t order) {
        TORCH_CHECK_VALUE(order >= 0 && order <= 2, "bias_act: there is no derivative of order ", order);
        kept = dense(kept_);
        out = at::empty_like(kept);
        call = {kept.numel(), 1, 1, act_of(act), int(order), alpha, gain, clamp};
        if (incoming_.has_value()) {
            TORCH_CHECK_VALUE(incoming_->sizes() == kept.sizes() && incoming_->scalar_type() == kept.scalar_type() && incoming_->device() == kept.device(),
                              "bias_act: a gradient of ", incoming_->scalar_type(), " ", incoming_->sizes(), " for ", kept.scalar_type(), " ", kept.sizes());
            incoming = incoming_->strides() == kept.strides() ? *incoming_ : at::empty_like(kept).copy_(*incoming_);
        }
        if (!b.has_value()) return;
        TORCH_CHECK_VALUE(dim >= 0 && dim < kept.dim(), "bias_act: there is no dimension ", dim, " in ", kept.sizes());
        TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == kept.size(dim), "bias_act: bias of shape ", b->sizes(), " does not fit dimension ", dim, " of ", kept.sizes());
        TORCH_CHECK_VALUE(b->scalar_type() == kept.scalar_type() && b->device() == kept.device(),
                          "bias_act: bias is ", b->scalar_type(), " on ", b->device(), ", the input ", kept.scalar_type(), " on ", kept.device());
        bias = b->contiguous();
        call.step = std::max<std::int64_t>(1, kept.stride(dim));
        call.channels = std::max<std::int64_t>(1, kept.size(dim));
    }

    const void* incoming_data() const { return incoming.defined() ? incoming.const_data_ptr() : nullptr; }
    const void* bias_data() const { return bias.defined() ? bias.const_data_ptr() : nullptr; }
};

}  // namespace ggdr
