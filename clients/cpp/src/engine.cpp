#include "vit_edge/engine.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

// Order of precisions of older bundles, whose graphs have no rank.
int older_rank(const std::string& kind, const std::string& precision) {
    static const std::map<std::string, std::vector<std::string>> orders{
        {"gpu", {"fp16", "bf16", "int8", "fp8", "fp32"}}, {"cpu", {"int8", "bf16", "fp32"}}};
    const auto order = orders.find(kind);
    if (order == orders.end()) return 0;
    const auto& names = order->second;
    return static_cast<int>(std::find(names.begin(), names.end(), precision) - names.begin());
}

const EngineEntry* find_engine(const PrecisionEntry& entry, const Backend& backend) {
    for (const EngineEntry& engine : entry.engines) {
        if (backend.takes(engine)) return &engine;
    }
    return nullptr;
}

// The precision of a backend that comes first; "" if the bundle has nothing for it.
std::string best_precision(const Manifest& manifest, const Backend& backend,
                           const std::optional<std::string>& asked) {
    std::string best;
    int best_rank = 0;
    for (const auto& [name, entry] : manifest.precisions) {
        const auto graph = entry.graphs.find(backend.graph_kind());
        if (asked && name != *asked) continue;
        if (graph == entry.graphs.end() || !backend.has_kernels_for(name)) continue;
        if (backend.needs_engine() && find_engine(entry, backend) == nullptr) continue;
        const int rank =
            graph->second.rank ? *graph->second.rank : older_rank(backend.graph_kind(), name);
        if (best.empty() || rank < best_rank) {
            best = name;
            best_rank = rank;
        }
    }
    return best;
}

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

void require_precision(const Manifest& manifest, const std::string& name) {
    if (manifest.precisions.count(name) != 0) return;
    std::vector<std::string> known;
    for (const auto& [precision, entry] : manifest.precisions) known.push_back(precision);
    throw InputError("the bundle has no precision " + name + ": choose from " + joined(known));
}

}  // namespace

Engine Engine::load(const std::string& path, const EngineOptions& options) {
    if (options.threads && *options.threads < 1) {
        throw InputError(std::to_string(*options.threads) + " threads: ask for at least one");
    }
    Bundle bundle = Bundle::open(path);
    const Manifest& manifest = bundle.manifest();
    if (options.precision) require_precision(manifest, *options.precision);
    const auto names =
        options.backend ? std::vector<std::string>{*options.backend} : backend_names();
    for (const std::string& name : names) {
        auto backend = make_backend(name);
        const std::string precision = best_precision(manifest, *backend, options.precision);
        if (precision.empty()) continue;
        const PrecisionEntry& entry = manifest.precisions.at(precision);
        const Graph graph = entry.graphs.at(backend->graph_kind());
        const Blob blob = backend->needs_engine()
                              ? Blob{bundle.read(find_engine(entry, *backend)->file), {}}
                              : bundle.read_graph(graph);
        auto session = backend->open(blob, manifest.spec, options.threads);
        Engine engine(std::move(bundle), precision, std::move(backend), std::move(session));
        engine.prove(graph, options.golden_samples);
        return engine;
    }
    throw BackendError("nothing in " + path + " runs with this build's backends (" + joined(names) +
                       ")" + (options.precision ? " in " + *options.precision : std::string()));
}

void Engine::prove(const Graph& graph, std::optional<std::int64_t> samples) {
    const GoldenSamples golden = bundle_.golden();
    const auto count = std::min(golden.count, samples.value_or(golden.count));
    if (count < 1) throw InputError("the golden check needs at least one sample");
    const auto bytes = static_cast<std::size_t>(count * manifest().spec.image_bytes());
    golden_outputs_ = run({golden.images.begin(), golden.images.begin() + bytes});
    golden_samples_ = count;
    golden_errors_ = vit_edge::golden_errors(golden_outputs_, golden, manifest().spec, graph);
    if (const auto problem = tolerance_violation(golden_errors_)) {
        throw SelfCheckError(precision_ + " on " + backend_->name() +
                             " failed the golden check: " + *problem + "; do not use it here");
    }
}

std::vector<float> Engine::run(const std::vector<std::uint8_t>& frames) {
    const EngineSpec& spec = manifest().spec;
    const auto bytes = static_cast<std::size_t>(spec.image_bytes());
    if (frames.empty() || frames.size() % bytes != 0) {
        throw InputError("frames have " + std::to_string(frames.size()) +
                         " bytes, not a multiple of " + std::to_string(bytes) + ", an image's");
    }
    const std::size_t count = frames.size() / bytes;
    const bool is_fixed = session_->fixed_batch() != 0;
    const int least = is_fixed ? session_->fixed_batch() : spec.batch[0];
    const int most = is_fixed ? session_->fixed_batch() : spec.batch[2];
    const auto width = static_cast<std::size_t>(spec.width());
    std::vector<float> outputs;
    outputs.reserve(count * width);
    for (std::size_t start = 0; start < count;) {
        const auto own = static_cast<int>(std::min<std::size_t>(most, count - start));
        const std::uint8_t* first = frames.data() + start * bytes;
        std::vector<std::uint8_t> padded;
        if (own < least) {  // by the last image, as in Python
            padded.assign(first, first + own * bytes);
            const std::uint8_t* last = first + (own - 1) * bytes;
            for (int i = own; i < least; ++i) padded.insert(padded.end(), last, last + bytes);
            first = padded.data();
        }
        const auto part = session_->run(first, std::max(own, least));
        outputs.insert(outputs.end(), part.begin(), part.begin() + own * width);
        start += own;
    }
    return outputs;
}

}  // namespace vit_edge
