// Turns the Linears of an OpenVINO model into 1x1 convolutions, whose kernels suit ViTs.
#pragma once

#include <cstdint>
#include <memory>
#include <openvino/op/constant.hpp>
#include <openvino/openvino.hpp>
#include <vector>

namespace vit_edge {

// A product of tokens [N, tokens, inputs] and constant weights [inputs, outputs].
struct Linear {
    std::shared_ptr<ov::Node> node;
    std::shared_ptr<ov::op::v0::Constant> weights;
    ov::Output<ov::Node> scale;  // that 8-bit weights are multiplied by; empty for others
    std::int64_t tokens = 0;

    std::int64_t inputs() const;
    std::int64_t outputs() const;
    std::int64_t macs() const { return tokens * inputs() * outputs(); }
};

// The Linears of a model whose shapes are all known.
std::vector<Linear> find_linears(const ov::Model& model);

// Replaces them in the model by convolutions.
void as_convolutions(ov::Model& model, const std::vector<Linear>& linears);

}  // namespace vit_edge
