// The command `vit-edge-run`: a bundle, proven here, and the likeliest classes of pictures.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "arguments.hpp"
#include "npy.hpp"
#include "vit_edge/answers.hpp"
#include "vit_edge/engine.hpp"
#include "vit_edge/error.hpp"

namespace {

using nlohmann::ordered_json;
using vit_edge::Engine;

void complain(const std::string& message) { std::cerr << "vit-edge-run: " << message << '\n'; }

std::string formatted(const char* format, double value) {
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

// Median milliseconds of calls of one frame, after a tenth as many to warm up.
double median_call_ms(Engine& engine, const std::vector<std::uint8_t>& frame, int calls) {
    for (int i = 0; i < calls / 10 + 1; ++i) engine.run(frame);
    std::vector<double> times;
    for (int i = 0; i < calls; ++i) {
        const auto start = std::chrono::steady_clock::now();
        engine.run(frame);
        const std::chrono::duration<double, std::milli> took =
            std::chrono::steady_clock::now() - start;
        times.push_back(took.count());
    }
    std::nth_element(times.begin(), times.begin() + calls / 2, times.end());
    return times[calls / 2];
}

// The likeliest classes of each output that has any, by its name, of one image's packed outputs.
ordered_json answers_of(const Engine& engine, const std::vector<float>& packed, int k) {
    const auto& spec = engine.manifest().spec;
    ordered_json all = ordered_json::object();
    std::size_t start = 0;
    for (const auto& output : spec.outputs) {
        const std::size_t end = start + output.size();
        if (output.classifies() || output.is_of_labels()) {
            const bool labelled = &output == spec.labelled();
            const auto labels = labelled ? engine.manifest().labels : std::nullopt;
            ordered_json rows = ordered_json::array();
            for (const auto& answer :
                 vit_edge::top({packed.begin() + start, packed.begin() + end}, output, labels, k)) {
                rows.push_back({answer.label, answer.probability});
            }
            all[output.name] = rows;
        }
        start = end;
    }
    return all;
}

void print_answers(const std::string& picture, const ordered_json& answers, const Arguments& a) {
    if (a.json) {
        ordered_json row{{"image", picture}};
        const std::string top = "top" + std::to_string(a.top);
        if (answers.size() == 1) row[top] = *answers.begin();
        if (answers.size() > 1) {
            for (const auto& [name, rows] : answers.items()) row["outputs"][name][top] = rows;
        }
        std::cout << row.dump() << std::endl;
        return;
    }
    std::string line = picture + ":";
    for (const auto& [name, rows] : answers.items()) {
        if (answers.size() > 1) line += " " + name + ":";
        for (const auto& row : rows) {
            line += " " + row[0].get<std::string>() + " " +
                    formatted("%.1f %%", 100 * row[1].get<double>()) + ",";
        }
    }
    line.pop_back();
    std::cout << line << std::endl;
}

void print_engine(const Engine& engine) {
    std::cout << engine.precision() << " on " << engine.backend().name() << " "
              << engine.backend().version() << ": golden check passed, " << engine.golden_samples()
              << " samples";
    for (const auto& error : engine.golden_errors()) {
        std::cout << ", " << error.output << " " << formatted("%.3g", error.rms) << " off ("
                  << formatted("%.3g", error.tolerance) << " allowed)";
    }
    std::cout << std::endl;
}

ordered_json describe_engine(const Engine& engine) {
    ordered_json errors = ordered_json::object();
    for (const auto& error : engine.golden_errors()) {
        errors[error.output] = {{"rms_error", error.rms}, {"tolerance", error.tolerance}};
    }
    return {{"precision", engine.precision()},
            {"backend", engine.backend().name()},
            {"version", engine.backend().version()},
            {"golden_samples", engine.golden_samples()},
            {"golden", errors}};
}

int run(const Arguments& a) {
    Engine engine = Engine::load(a.bundle, a.engine);
    if (!a.json) print_engine(engine);
    std::vector<float> outputs;
    std::vector<std::uint8_t> frame(engine.manifest().spec.image_bytes(), 128);
    std::size_t done = 0, failed = 0;
    for (const std::string& picture : a.pictures) {
        try {
            frame = engine.manifest().preprocess(vit_edge::read_picture(picture));
        } catch (const vit_edge::InputError& error) {
            ++failed;
            if (a.json) {
                std::cout << ordered_json{{"image", picture}, {"error", error.what()}}.dump()
                          << std::endl;
            }
            complain(error.what());
            continue;
        }
        const auto packed = engine.run(frame);
        outputs.insert(outputs.end(), packed.begin(), packed.end());
        ++done;
        print_answers(picture, answers_of(engine, packed, a.top), a);
    }
    if (a.outputs) {
        const bool golden = a.pictures.empty();
        vit_edge::write_npy(*a.outputs, golden ? engine.golden_outputs() : outputs,
                            golden ? engine.golden_samples() : static_cast<std::int64_t>(done));
    }
    ordered_json end{{"images", done}, {"failed", failed}, {"engine", describe_engine(engine)}};
    if (a.calls > 0) {
        const double milliseconds = median_call_ms(engine, frame, a.calls);
        end["call_ms"] = milliseconds;
        if (!a.json) std::cout << formatted("%.4g ms a call (median)\n", milliseconds);
    }
    if (a.json) std::cout << end.dump() << std::endl;
    return failed == 0 ? 0 : done > 0 ? 1 : 2;
}

}  // namespace

int main(int count, char** values) {
    try {
        const Arguments arguments = parse_arguments(count, values);
        if (arguments.help) {
            std::cout << kUsage;
            return 0;
        }
        return run(arguments);
    } catch (const vit_edge::Error& error) {
        complain(error.what());
        return error.exit_status();
    } catch (const std::exception& error) {  // memory, and what libraries throw
        complain(error.what());
        return 2;
    }
}
