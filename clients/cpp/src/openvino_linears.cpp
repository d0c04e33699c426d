// The same rewriting as runtime/backends/openvino/graph.py, which says why: outputs are the same
// bits only where the graphs are the same.
// Source: OpenVINO operation set 13 (MatMul, Convolution, Transpose, Reshape, FakeQuantize).
#include "openvino_linears.hpp"

#include <cstring>
#include <openvino/opsets/opset13.hpp>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

using ov::opset13::Constant;
using Node = std::shared_ptr<ov::Node>;
using Output = ov::Output<ov::Node>;

bool is_type(const Node& node, const char* name) {
    return std::strcmp(node->get_type_info().name, name) == 0;
}

Node source(const Node& node, std::size_t index) {
    return node->input_value(index).get_node_shared_ptr();
}

std::shared_ptr<Constant> as_constant(const Node& node) { return ov::as_type_ptr<Constant>(node); }

Node integers(const std::vector<std::int64_t>& values) {
    return Constant::create(ov::element::i64, ov::Shape{values.size()}, values);
}

// The node before any Converts and Reshapes.
Node behind(Node node) {
    while (is_type(node, "Convert") || is_type(node, "Reshape")) node = source(node, 0);
    return node;
}

bool is_zero(const Node& node) {
    const auto constant = as_constant(node);
    if (!constant) return false;
    for (const double value : constant->cast_vector<double>()) {
        if (value != 0.0) return false;
    }
    return true;
}

// Constant and scale of `(Convert(Constant) - 0) * scale`, or a lone Constant.
bool find_weights(Linear& linear) {
    Node weights = source(linear.node, 1);
    if (is_type(weights, "Multiply")) {
        linear.scale = weights->input_value(1);
        weights = source(weights, 0);
        if (is_type(weights, "Subtract")) {
            if (!is_zero(behind(source(weights, 1)))) return false;
            weights = source(weights, 0);
        }
        if (!is_type(weights, "Convert")) return false;
        weights = source(weights, 0);
        const auto type = weights->get_output_element_type(0);
        if (type != ov::element::i8 && type != ov::element::u8) return false;
    }
    linear.weights = as_constant(weights);
    return linear.weights && linear.weights->get_shape().size() == 2;
}

// The parts of `(Convert(Convert(FakeQuantize)) - zero) * scale`.
struct Quantiser {
    std::shared_ptr<ov::opset13::FakeQuantize> node;
    std::shared_ptr<Constant> zero, scale;
};

// Finds the quantiser that dequantised tokens come from; an empty one where there is none.
Quantiser find_quantiser(Node node) {
    Quantiser found;
    if (!is_type(node, "Multiply")) return {};
    found.scale = as_constant(behind(source(node, 1)));
    node = source(node, 0);
    if (!is_type(node, "Subtract")) return {};
    found.zero = as_constant(behind(source(node, 1)));
    node = source(node, 0);
    while (is_type(node, "Convert")) node = source(node, 0);
    if (!found.zero || !found.scale || ov::shape_size(found.zero->get_shape()) != 1 ||
        ov::shape_size(found.scale->get_shape()) != 1) {
        return {};
    }
    found.node = ov::as_type_ptr<ov::opset13::FakeQuantize>(node);
    return found;
}

// The number that `x` was centred by; empty where it was not.
Output find_shift(const Output& x) {
    const Node node = x.get_node_shared_ptr();
    if (!is_type(node, "Subtract") || !as_constant(source(node, 1))) return {};
    const Output shift = node->input_value(1);
    return shift.get_shape().empty() ? shift : Output{};
}

// `(bound - zero) * scale`, of as many dimensions as the one with most.
Node dequantised(const Node& bound, const Quantiser& quantiser) {
    const auto constant = as_constant(bound);
    if (!constant)
        throw EngineError("OpenVINO refuses the graph: a quantiser's bound is no constant");
    const float zero = quantiser.zero->cast_vector<float>()[0];
    const float scale = quantiser.scale->cast_vector<float>()[0];
    auto values = constant->cast_vector<float>();
    for (float& value : values) value = (value - zero) * scale;
    ov::Shape shape = constant->get_shape();
    for (const auto& other : {quantiser.zero->get_shape(), quantiser.scale->get_shape()}) {
        while (shape.size() < other.size()) shape.insert(shape.begin(), 1);
    }
    return Constant::create(ov::element::f32, shape, values);
}

// Makes ONNX's Q and DQ the one quantiser that OpenVINO knows, if tokens come from such a pair. A
// constant that is subtracted first becomes part of the quantiser's range.
void join_quantiser(const Output& tokens) {
    const Node scaled = tokens.get_node_shared_ptr();
    const Quantiser quantiser = find_quantiser(scaled);
    if (!quantiser.node) return;
    const Node low = dequantised(source(quantiser.node, 3), quantiser);
    const Node high = dequantised(source(quantiser.node, 4), quantiser);
    Output x = quantiser.node->input_value(0);
    Output from = quantiser.node->input_value(1), to = quantiser.node->input_value(2);
    const Output shift = find_shift(x);
    if (shift.get_node() != nullptr) {
        x = x.get_node_shared_ptr()->input_value(0);
        from = std::make_shared<ov::opset13::Add>(from, shift);
        to = std::make_shared<ov::opset13::Add>(to, shift);
    }
    const auto joined = std::make_shared<ov::opset13::FakeQuantize>(x, from, to, low, high,
                                                                    quantiser.node->get_levels());
    joined->set_friendly_name(scaled->get_friendly_name());
    scaled->output(0).replace(joined->output(0));
}

// Weights [outputs, inputs, 1, 1], transposed here: OpenVINO would keep both.
Output make_filters(const Linear& linear) {
    const auto type = linear.weights->get_element_type();
    const auto inputs = static_cast<std::size_t>(linear.inputs());
    const auto outputs = static_cast<std::size_t>(linear.outputs());
    ov::Tensor turned(type, ov::Shape{outputs, inputs, 1, 1});
    const std::size_t bytes = type.size();
    const auto* from = static_cast<const char*>(linear.weights->get_data_ptr());
    auto* to = static_cast<char*>(turned.data());
    for (std::size_t out = 0; out < outputs; ++out) {
        for (std::size_t in = 0; in < inputs; ++in) {
            std::memcpy(to + (out * inputs + in) * bytes, from + (in * outputs + out) * bytes,
                        bytes);
        }
    }
    const Node filters = std::make_shared<Constant>(turned);
    if (linear.scale.get_node() == nullptr) return filters;
    const Node scale =
        std::make_shared<ov::opset13::Reshape>(linear.scale, integers({-1, 1, 1, 1}), false);
    const Node wide =
        std::make_shared<ov::opset13::Convert>(filters, scale->get_output_element_type(0));
    return std::make_shared<ov::opset13::Multiply>(wide, scale)->output(0);
}

struct Bias {
    Node replaced;  // the Add, or the MatMul where there is no bias
    Node values;    // a Constant [outputs], or nothing
};

Bias find_bias(const Linear& linear) {
    const auto readers = linear.node->output(0).get_target_inputs();
    if (readers.size() != 1) return {linear.node, nullptr};
    const auto& reader = *readers.begin();
    const Node add = reader.get_node()->shared_from_this();
    if (!is_type(add, "Add")) return {linear.node, nullptr};
    const Node other = source(add, 1 - reader.get_index());
    const ov::Shape expected{static_cast<std::size_t>(linear.outputs())};
    if (!as_constant(other) || other->get_output_shape(0) != expected) {
        return {linear.node, nullptr};
    }
    return {add, other};
}

// Convolves [N, tokens, inputs] as [N, inputs, tokens, 1], and turns the result back.
void replace(const Linear& linear) {
    using namespace ov::opset13;
    Node images = std::make_shared<Reshape>(linear.node->input_value(0),
                                            integers({0, 0, 1, linear.inputs()}), true);
    images = std::make_shared<Transpose>(images, integers({0, 3, 1, 2}));
    Node sums = std::make_shared<Convolution>(images, make_filters(linear), ov::Strides{1, 1},
                                              ov::CoordinateDiff{0, 0}, ov::CoordinateDiff{0, 0},
                                              ov::Strides{1, 1});
    sums->set_friendly_name(linear.node->get_friendly_name() + "/Convolution");  // for profiles
    const Bias bias = find_bias(linear);
    if (bias.values) {
        const auto shaped =
            std::make_shared<Reshape>(bias.values, integers({1, linear.outputs(), 1, 1}), false);
        sums = std::make_shared<Add>(sums, shaped);
    }
    Node tokens = std::make_shared<Transpose>(sums, integers({0, 2, 3, 1}));
    tokens = std::make_shared<Reshape>(tokens, integers({0, 0, linear.outputs()}), true);
    tokens->set_friendly_name(bias.replaced->get_friendly_name());
    bias.replaced->output(0).replace(tokens->output(0));
}

}  // namespace

std::int64_t Linear::inputs() const { return static_cast<std::int64_t>(weights->get_shape()[0]); }

std::int64_t Linear::outputs() const { return static_cast<std::int64_t>(weights->get_shape()[1]); }

std::vector<Linear> find_linears(const ov::Model& model) {
    std::vector<Linear> linears;
    for (const auto& node : model.get_ordered_ops()) {
        const auto product = ov::as_type_ptr<ov::opset13::MatMul>(node);
        if (!product || product->get_transpose_a() || product->get_transpose_b()) continue;
        Linear linear;
        linear.node = node;
        const auto tokens = node->input_value(0).get_partial_shape();
        if (!find_weights(linear) || tokens.is_dynamic() || tokens.size() != 3) continue;
        linear.tokens = tokens[1].get_length();
        linears.push_back(linear);
    }
    return linears;
}

void as_convolutions(ov::Model& model, const std::vector<Linear>& linears) {
    for (const Linear& linear : linears) {
        join_quantiser(linear.node->input_value(0));
        replace(linear);
    }
    model.validate_nodes_and_infer_types();
}

}  // namespace vit_edge
