// Source: runtime/golden.py, runtime/outputs.py.
#include "vit_edge/golden.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "npy.hpp"
#include "plain_text.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

// Root mean square of values about their mean over images, never 0: the size of the values where
// the images do not differ. For outputs without a scale.
double spread(const GoldenSamples& golden, std::int64_t width, std::int64_t start,
              std::int64_t size) {
    double about_mean = 0.0, squares = 0.0;
    for (std::int64_t column = start; column < start + size; ++column) {
        double mean = 0.0;
        for (std::int64_t i = 0; i < golden.count; ++i) mean += golden.outputs[i * width + column];
        mean = golden.count > 1 ? mean / static_cast<double>(golden.count) : 0.0;
        for (std::int64_t i = 0; i < golden.count; ++i) {
            const double value = golden.outputs[i * width + column];
            about_mean += (value - mean) * (value - mean);
            squares += value * value;
        }
    }
    const double count = static_cast<double>(golden.count * size);
    if (about_mean > 0.0) return std::sqrt(about_mean / count);
    return squares > 0.0 ? std::sqrt(squares / count) : 1.0;
}

std::string three_digits(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
}

}  // namespace

GoldenSamples parse_golden(const std::string& raw, const EngineSpec& spec) {
    const auto [height, width, channels] = spec.image_shape;
    const std::vector<ExpectedArray> expected{
        {"images", "|u1", 1, {height, width, channels}},
        {"logits", "<f4", 4, {spec.width()}},
        {"labels", "<i8", 8, {}},
    };
    try {
        const auto arrays = read_npz(raw, expected);
        const auto images = arrays.find("images"), outputs = arrays.find("logits");
        if (images == arrays.end() || outputs == arrays.end()) {
            throw std::runtime_error("it has no images or no logits");
        }
        GoldenSamples golden;
        golden.count = images->second.count;
        for (const auto& [name, array] : arrays) {
            if (array.count != golden.count) {
                throw std::runtime_error(std::to_string(array.count) + " " + name + " for " +
                                         std::to_string(golden.count) + " images");
            }
        }
        const std::string &pixels = images->second.bytes, &values = outputs->second.bytes;
        golden.images.assign(pixels.begin(), pixels.end());
        golden.outputs.resize(values.size() / sizeof(float));
        std::memcpy(golden.outputs.data(), values.data(), values.size());
        return golden;
    } catch (const std::runtime_error& error) {
        throw BundleError(std::string("golden.npz is not valid: ") + plain(error.what()) + "; " +
                          kRemedy);
    }
}

std::vector<GoldenError> golden_errors(const std::vector<float>& mine, const GoldenSamples& golden,
                                       const EngineSpec& spec, const Graph& graph) {
    const std::int64_t width = spec.width();
    const auto samples = static_cast<std::int64_t>(mine.size()) / width;
    std::vector<GoldenError> errors;
    std::int64_t start = 0;
    for (const OutputSpec& output : spec.outputs) {
        double squares = 0.0;
        for (std::int64_t i = 0; i < samples; ++i) {
            for (std::int64_t column = start; column < start + output.size(); ++column) {
                const double value = mine[i * width + column];
                const double difference = value - golden.outputs[i * width + column];
                squares += std::isfinite(value) ? difference * difference
                                                : std::numeric_limits<double>::infinity();
            }
        }
        const double scale =
            output.scale ? *output.scale : spread(golden, width, start, output.size());
        const double rms = std::sqrt(squares / static_cast<double>(samples * output.size()));
        errors.push_back({output.name, rms / scale, graph.rms_tolerance.at(output.name)});
        start += output.size();
    }
    return errors;
}

std::optional<std::string> tolerance_violation(const std::vector<GoldenError>& errors) {
    const GoldenError* worst = nullptr;
    for (const GoldenError& error : errors) {
        if (error.rms <= error.tolerance) continue;  // of NaN this is false
        if (worst == nullptr || error.rms / error.tolerance > worst->rms / worst->tolerance) {
            worst = &error;
        }
    }
    if (worst == nullptr) return std::nullopt;
    return worst->output + " are " + three_digits(worst->rms) +
           " off (relative RMS), the bundle allows " + three_digits(worst->tolerance);
}

}  // namespace vit_edge
