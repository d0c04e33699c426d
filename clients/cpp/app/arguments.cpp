#include "arguments.hpp"

#include <functional>
#include <map>

#include "vit_edge/error.hpp"

namespace {

using vit_edge::InputError;

constexpr int kLargest = 1'000'000;

int parse_count(const std::string& option, const std::string& text) {
    const bool digits = !text.empty() && text.size() <= 7 &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    const int number = digits ? std::stoi(text) : 0;
    if (number < 1 || number > kLargest) {
        throw InputError(option + " " + text + ": give a number from 1 to " +
                         std::to_string(kLargest));
    }
    return number;
}

}  // namespace

Arguments parse_arguments(int count, char** values) {
    Arguments arguments;
    bool golden_given = false;
    const std::map<std::string, std::function<void(const std::string&)>> options{
        {"--precision", [&](const std::string& v) { arguments.engine.precision = v; }},
        {"--backend", [&](const std::string& v) { arguments.engine.backend = v; }},
        {"--threads",
         [&](const std::string& v) { arguments.engine.threads = parse_count("--threads", v); }},
        {"--top", [&](const std::string& v) { arguments.top = parse_count("--top", v); }},
        {"--calls", [&](const std::string& v) { arguments.calls = parse_count("--calls", v); }},
        {"--outputs", [&](const std::string& v) { arguments.outputs = v; }},
        {"--golden",
         [&](const std::string& v) {
             golden_given = true;
             arguments.engine.golden_samples.reset();
             if (v != "all") arguments.engine.golden_samples = parse_count("--golden", v);
         }},
    };
    std::vector<std::string> places;
    for (int i = 1; i < count; ++i) {
        const std::string word = values[i];
        const auto option = options.find(word);
        if (word == "--json") {
            arguments.json = true;
        } else if (word == "--help" || word == "-h") {
            arguments.help = true;
        } else if (option != options.end()) {
            if (++i == count) throw InputError(word + " needs a value");
            option->second(values[i]);
        } else if (word.size() > 1 && word[0] == '-') {
            throw InputError("unknown option " + word + ": `vit-edge-run --help` lists them");
        } else {
            places.push_back(word);
        }
    }
    if (arguments.help) return arguments;
    if (places.empty()) throw InputError("no bundle is given: `vit-edge-run --help` tells more");
    arguments.bundle = places.front();
    arguments.pictures.assign(places.begin() + 1, places.end());
    if (arguments.pictures.empty() && !golden_given) arguments.engine.golden_samples.reset();
    return arguments;
}
