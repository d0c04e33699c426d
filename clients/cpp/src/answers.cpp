// Source: runtime/answers.py.
#include "vit_edge/answers.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

std::vector<double> probabilities(const std::vector<float>& values, const OutputSpec& output) {
    std::vector<double> result(values.begin(), values.end());
    if (output.kind == "logits") {
        const double largest = *std::max_element(result.begin(), result.end());
        double sum = 0.0;
        for (double& value : result) sum += value = std::exp(value - largest);
        for (double& value : result) value /= sum;
    } else if (output.kind == "multilabel") {
        for (double& value : result) {
            const double small = std::exp(-std::fabs(value));
            value = (value >= 0 ? 1 : small) / (1 + small);
        }
    }
    return result;
}

}  // namespace

std::vector<Answer> top(const std::vector<float>& values, const OutputSpec& output,
                        const std::optional<std::vector<std::string>>& labels, int k) {
    if (k < 1) throw InputError("k is " + std::to_string(k) + ": ask for at least one class");
    if (!output.classifies() && !output.is_of_labels()) {
        throw InputError("the model puts out " + output.name + ", a " + output.kind +
                         ": it has no classes");
    }
    if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) {
        throw InputError("scores are not finite: the engine fails here");
    }
    const auto likely = probabilities(values, output);
    std::vector<int> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return values[a] > values[b]; });
    order.resize(std::min(order.size(), static_cast<std::size_t>(k)));
    std::vector<Answer> answers;
    for (const int index : order) {
        answers.push_back(
            {labels ? labels->at(index) : std::to_string(index), index, likely[index]});
    }
    return answers;
}

}  // namespace vit_edge
