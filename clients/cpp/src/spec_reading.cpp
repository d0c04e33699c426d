// Source: runtime/manifest.py, runtime/outputs.py, runtime/preprocess.py.
#include "spec_reading.hpp"

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr int kMaxDimension = 1 << 16;
constexpr std::int64_t kMaxBatchBytes = std::int64_t{1} << 33;
constexpr std::size_t kMaxOutputs = 4096;
constexpr double kMaxScale = 1e12;

const std::map<std::string, std::set<std::size_t>>& dimensions_of_kinds() {
    static const std::map<std::string, std::set<std::size_t>> kinds{
        {"logits", {1}},     {"probabilities", {1}},
        {"multilabel", {1}}, {"label_probabilities", {1}},
        {"value", {0, 1}},   {"embedding", {1}},
        {"tokens", {2}},     {"map", {2, 3}},
        {"boxes", {2}},
    };
    return kinds;
}

int read_size(const Json& value, const std::string& where) {
    const auto size = read_integer(value, where);
    require(
        0 < size && size <= kMaxDimension, where,
        "size " + std::to_string(size) + " is not between 1 and " + std::to_string(kMaxDimension));
    return static_cast<int>(size);
}

OutputSpec read_output(const Json& value, const std::string& where) {
    static const std::regex plain("[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}");
    Fields fields(value, where);
    OutputSpec output;
    output.name = fields.text("name");
    output.kind = fields.text("kind");
    output.shape = read_list(fields.required("shape"), fields.path("shape"), read_size);
    output.scale = read_optional_number(fields.optional("scale"), fields.path("scale"));
    fields.finish();
    require(output.name.size() <= 100 && std::regex_match(output.name, plain), where,
            "output name '" + output.name.substr(0, 60) + "' is not made of letters and digits");
    const auto kind = dimensions_of_kinds().find(output.kind);
    require(kind != dimensions_of_kinds().end(), where,
            "unknown kind of output '" + output.kind.substr(0, 60) + "'");
    require(kind->second.count(output.shape.size()) != 0, where,
            output.name + " cannot be of the kind " + output.kind);
    require(output.kind != "boxes" || output.shape.back() == 4, where,
            output.name + " has no boxes of four coordinates");
    require(!output.scale || (*output.scale > 0 && *output.scale <= kMaxScale), where,
            "the scale of " + output.name + " is out of range");
    return output;
}

// The one output of a manifest before version 5, which had its name and width alone.
OutputSpec read_older_output(Fields& spec) {
    OutputSpec output;
    output.name = spec.text("output_name");
    output.kind = output.name == "features" ? "embedding" : "logits";
    output.shape = {read_size(spec.required("outputs"), spec.path("outputs"))};
    return output;
}

std::vector<double> read_numbers(const Json& value, const std::string& where) {
    return read_list(value, where, read_number);
}

}  // namespace

void require(bool fits, const std::string& where, const std::string& message) {
    if (!fits) throw SchemaError(where + ": " + message);
}

std::optional<double> read_optional_number(const Json* value, const std::string& where) {
    if (value == nullptr || value->is_null()) return std::nullopt;
    return read_number(*value, where);
}

EngineSpec read_spec(const Json& value, const std::string& where, int version) {
    Fields fields(value, where);
    EngineSpec spec;
    spec.input_name = fields.text("input_name");
    if (version < kNamedOutputs) {
        spec.outputs = {read_older_output(fields)};
    } else {
        spec.outputs = read_list(fields.required("outputs"), fields.path("outputs"), read_output);
    }
    const auto image =
        read_list(fields.required("image_shape"), fields.path("image_shape"), read_size);
    const auto batch = read_list(fields.required("batch"), fields.path("batch"), read_size);
    fields.finish();
    require(image.size() == 3 && batch.size() == 3, where,
            "image_shape is [height, width, channels] and batch [min, opt, max]");
    std::copy(image.begin(), image.end(), spec.image_shape.begin());
    std::copy(batch.begin(), batch.end(), spec.batch.begin());
    require(std::is_sorted(batch.begin(), batch.end()), where, "batch is not in rising order");
    std::set<std::string> names;
    for (const OutputSpec& output : spec.outputs) {
        require(names.insert(output.name).second, where, "two outputs are named " + output.name);
        // 2^48 at most, so that no sum of them overflows.
        require(output.size() <= kMaxBatchBytes, where, output.name + " is too large");
    }
    require(!names.empty() && names.size() <= kMaxOutputs, where, "no outputs, or too many");
    const std::int64_t largest =
        std::max(spec.image_bytes(), 4 * spec.width());  // of an image: below 2^48 each
    require(largest <= kMaxBatchBytes / spec.batch[2], where, "a batch takes too many bytes");
    return spec;
}

Preprocess read_preprocess(const Json& value, const std::string& where) {
    Fields fields(value, where);
    Preprocess p;
    p.height = read_size(fields.required("height"), fields.path("height"));
    p.width = read_size(fields.required("width"), fields.path("width"));
    p.channels = read_size(fields.required("channels"), fields.path("channels"));
    p.crop = fields.number("crop");
    p.interpolation = fields.text("interpolation");
    const Json* mode = fields.optional("crop_mode");
    p.crop_mode = mode == nullptr ? "center" : read_text(*mode, fields.path("crop_mode"));
    const auto mean = read_numbers(fields.required("mean"), fields.path("mean"));
    const auto deviation = read_numbers(fields.required("std"), fields.path("std"));
    fields.finish();
    try {
        p.validate();
    } catch (const InputError& error) {
        throw SchemaError(where + ": " + error.what());
    }
    const auto channels = static_cast<std::size_t>(p.channels);
    require(mean.size() == channels && deviation.size() == channels, where,
            "give a mean and a deviation for each channel");
    return p;
}

std::int64_t OutputSpec::size() const {
    std::int64_t product = 1;
    for (const int side : shape) product *= side;  // at most three of 2^16
    return product;
}

std::int64_t EngineSpec::image_bytes() const {
    return std::int64_t{image_shape[0]} * image_shape[1] * image_shape[2];
}

std::int64_t EngineSpec::width() const {
    std::int64_t sum = 0;
    for (const OutputSpec& output : outputs) sum += output.size();
    return sum;
}

const OutputSpec* EngineSpec::labelled() const {
    for (const OutputSpec& output : outputs) {
        if (output.classifies() || output.is_of_labels()) return &output;
    }
    for (const OutputSpec& output : outputs) {
        if (output.kind == "map" && output.shape.size() == 3 && output.shape[0] > 1) return &output;
    }
    return nullptr;
}

}  // namespace vit_edge
