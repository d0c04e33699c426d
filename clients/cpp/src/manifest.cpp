// Source: runtime/manifest.py. What is for people alone (accuracy, facts, plans) is checked for its
// fields and types, and not kept.
#include "vit_edge/manifest.hpp"

#include <algorithm>
#include <cctype>
#include <regex>
#include <set>

#include "plain_text.hpp"
#include "spec_reading.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 38;
constexpr std::int64_t kMaxBundleBytes = std::int64_t{1} << 40;
constexpr std::size_t kMaxFiles = 4096, kMaxPath = 200;
constexpr double kMaxTolerance = 10.0;
constexpr int kMaxRank = 1000;
constexpr std::int64_t kMaxReference = std::int64_t{1} << 16;
constexpr std::size_t kMaxStatistics = 1 << 10;

FileEntry read_file_entry(const Json& value, const std::string& where) {
    static const std::regex hex("[0-9a-f]{64}");
    Fields fields(value, where);
    FileEntry entry{fields.text("sha256"), fields.integer("size")};
    fields.finish();
    require(std::regex_match(entry.sha256, hex) && 0 <= entry.size && entry.size <= kMaxFileBytes,
            where, "bad sha256 or size " + std::to_string(entry.size));
    return entry;
}

// An output's accuracy, or an older manifest's of its only output: numbers, and where they are
// from.
bool check_accuracy(const Json& value, const std::string& where) {
    Fields fields(value, where);
    require(fields.integer("images") > 0, where, "no images");
    for (const char* name : {"cosine", "logit_error", "rms_error"}) fields.number(name);
    fields.text("measured_on");
    for (const char* name :
         {"top1", "reference_top1", "drop", "drop_low", "drop_high", "agreement"}) {
        read_optional_number(&fields.required(name), fields.path(name));
    }
    for (const char* name : {"average_precision", "metric", "reference_metric"}) {
        read_optional_number(fields.optional(name), fields.path(name));
    }
    fields.finish();
    return true;
}

double read_tolerance(const Json& value, const std::string& where) {
    const double tolerance = read_number(value, where);
    require(tolerance > 0 && tolerance <= kMaxTolerance, where, "rms_tolerance is out of range");
    return tolerance;
}

std::string folder_of(const std::string& path) {
    const auto slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
}

Graph read_graph(const Json& value, const std::string& where, const EngineSpec& spec, int version) {
    Fields fields(value, where);
    Graph graph;
    graph.file = fields.text("file");
    graph.external = read_list(fields.required("external"), fields.path("external"), read_text);
    const Json& accuracy = fields.required("accuracy");
    const Json& tolerance = fields.required("rms_tolerance");
    if (version < kNamedOutputs) {
        check_accuracy(accuracy, fields.path("accuracy"));
        graph.rms_tolerance = {
            {spec.outputs[0].name, read_tolerance(tolerance, fields.path("rms_tolerance"))}};
    } else {
        graph.rms_tolerance = read_map(tolerance, fields.path("rms_tolerance"), read_tolerance);
        const auto measured = read_map(accuracy, fields.path("accuracy"), check_accuracy);
        for (const OutputSpec& output : spec.outputs) {
            require(measured.count(output.name) && graph.rms_tolerance.count(output.name), where,
                    "no accuracy of the output " + output.name);
        }
        require(measured.size() == spec.outputs.size() &&
                    graph.rms_tolerance.size() == spec.outputs.size(),
                where, "it has the accuracy of outputs that are not there");
    }
    const Json* rank = fields.optional("rank");
    if (rank != nullptr && !rank->is_null()) {
        const auto place = read_integer(*rank, fields.path("rank"));
        require(0 <= place && place <= kMaxRank, where, "rank is out of range");
        graph.rank = static_cast<int>(place);
    }
    if (const Json* shares = fields.optional("quantised")) {
        read_map(*shares, fields.path("quantised"), read_number);
    }
    if (const Json* least = fields.optional("least_capability")) {
        read_text(*least, fields.path("least_capability"));
    }
    fields.finish();
    for (const std::string& file : graph.external) {
        require(folder_of(file) == folder_of(graph.file), where,
                "its weights do not lie beside " + graph.file);
    }
    return graph;
}

EngineEntry read_engine(const Json& value, const std::string& where) {
    static const std::regex capability("[0-9]{1,3}\\.[0-9]{1,2}");
    Fields fields(value, where);
    EngineEntry engine;
    engine.file = fields.text("file");
    engine.backend = fields.text("backend");
    engine.version = fields.text("version");
    engine.compute_capabilities = read_list(fields.required("compute_capabilities"),
                                            fields.path("compute_capabilities"), read_text);
    if (const Json* form = fields.optional("form")) {
        read_map(*form, fields.path("form"), read_text);
    }
    if (const Json* file = fields.optional("plan_file")) {
        read_text(*file, fields.path("plan_file"));
    }
    const Json* plan = fields.optional("plan");
    require(plan == nullptr || plan->is_null() || plan->is_object(), where, "plan is no object");
    fields.finish();
    for (const std::string& one : engine.compute_capabilities) {
        require(std::regex_match(one, capability), where, "a compute capability is no number");
    }
    return engine;
}

PrecisionEntry read_precision(const Json& value, const std::string& where, const EngineSpec& spec,
                              int version) {
    Fields fields(value, where);
    PrecisionEntry entry;
    entry.graphs = read_map(fields.required("graphs"), fields.path("graphs"),
                            [&](const Json& graph, const std::string& path) {
                                return read_graph(graph, path, spec, version);
                            });
    entry.engines = read_list(fields.required("engines"), fields.path("engines"), read_engine);
    read_list(fields.required("raised"), fields.path("raised"), read_text);
    fields.text("reason");
    if (const Json* evidence = fields.optional("evidence")) {
        read_text(*evidence, fields.path("evidence"));
    }
    fields.finish();
    require(!entry.graphs.empty(), where, "a precision without a graph");
    return entry;
}

bool check_fact(const Json& value, const std::string& where) {
    if (value.is_string()) read_text(value, where);
    require(value.is_string() || value.is_number() || value.is_boolean(), where,
            "is neither text nor a number");
    return true;
}

void require_plain_files(const std::map<std::string, FileEntry>& files) {
    static const std::regex plain("[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*");
    static const std::set<std::string> own{"manifest.json", "manifest.sha256", "release.json",
                                           "model.sig"};
    require(files.size() <= kMaxFiles, "files", "too many");
    std::int64_t bytes = 0;
    std::set<std::string> lower;
    for (const auto& [path, entry] : files) {
        bytes += entry.size;  // 4096 times 2^38 does not overflow
        require(path.size() <= kMaxPath && std::regex_match(path, plain) && own.count(path) == 0,
                "files", "'" + path.substr(0, 60) + "' is not a plain relative path of a file");
        std::string name = path;
        std::transform(name.begin(), name.end(), name.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        require(lower.insert(name).second, "files",
                "two file names differ in upper and lower case only");
    }
    require(bytes <= kMaxBundleBytes, "files", "too many bytes");
}

void require_listed(const Manifest& manifest) {
    std::vector<std::string> named{"golden.npz"};
    for (const auto& [name, precision] : manifest.precisions) {
        for (const auto& [kind, graph] : precision.graphs) {
            named.push_back(graph.file);
            named.insert(named.end(), graph.external.begin(), graph.external.end());
        }
        for (const EngineEntry& engine : precision.engines) named.push_back(engine.file);
    }
    if (manifest.statistics) named.push_back(*manifest.statistics);
    for (const std::string& file : named) {
        require(manifest.files.count(file) != 0, "files",
                "'" + file.substr(0, 60) + "' is named but not listed with its hash");
    }
}

int read_version(const Json& value) {
    const Json* version = nullptr;
    if (value.is_object() && value.contains("schema_version")) version = &value["schema_version"];
    const bool whole = version != nullptr && version->is_number_integer();
    if (whole && *version >= kOldestSchema && *version <= kSchemaVersion)
        return version->get<int>();
    const bool newer = whole && *version > kSchemaVersion;
    throw SchemaError("schema_version is " +
                      (version == nullptr ? "missing" : version->dump().substr(0, 20)) +
                      ", this client reads " + std::to_string(kOldestSchema) + " to " +
                      std::to_string(kSchemaVersion) + ": " +
                      (newer ? "the bundle was made by a newer vit-edge: update this client"
                             : "export the bundle again"));
}

// The file of the reference's statistics, which only Python's tools read.
std::string read_statistics(const Json& value, const std::string& where) {
    Fields fields(value, where);
    const std::string file = fields.text("file");
    const std::int64_t images = fields.integer("images");
    require(images > 0 && images <= kMaxReference, where, "images is not in range");
    fields.text("source");
    const auto names = read_list(fields.required("names"), fields.path("names"), read_text);
    const std::set<std::string> unique(names.begin(), names.end());
    require(!names.empty() && names.size() <= kMaxStatistics && unique.size() == names.size(),
            where, "names are none, too many, or twice the same");
    fields.finish();
    return file;
}

Manifest read_manifest(const Json& value) {
    Manifest manifest;
    manifest.schema_version = read_version(value);
    const int version = manifest.schema_version;
    Fields fields(value, "Manifest");
    fields.required("schema_version");
    manifest.name = fields.text("name");
    manifest.spec = read_spec(fields.required("spec"), fields.path("spec"), version);
    manifest.preprocess = read_preprocess(fields.required("preprocess"), fields.path("preprocess"));
    const Json& labels = fields.required("labels");
    if (!labels.is_null()) manifest.labels = read_list(labels, fields.path("labels"), read_text);
    manifest.precisions =
        read_map(fields.required("precisions"), fields.path("precisions"),
                 [&](const Json& precision, const std::string& path) {
                     return read_precision(precision, path, manifest.spec, version);
                 });
    read_map(fields.required("model"), fields.path("model"), check_fact);
    read_map(fields.required("provenance"), fields.path("provenance"), check_fact);
    read_map(fields.required("tools"), fields.path("tools"), read_text);
    manifest.files = read_map(fields.required("files"), fields.path("files"), read_file_entry);
    if (const Json* statistics = fields.optional("statistics"); statistics && !statistics->is_null())
        manifest.statistics = read_statistics(*statistics, fields.path("statistics"));
    fields.finish();
    require_plain_files(manifest.files);
    require_listed(manifest);
    require(!manifest.precisions.empty(), "Manifest", "no precision");
    const OutputSpec* labelled = manifest.spec.labelled();
    const std::size_t classes = labelled == nullptr ? 0 : labelled->shape[0];
    require(!manifest.labels || manifest.labels->size() == classes, "Manifest",
            "the labels are not as many as the outputs");
    const Preprocess& p = manifest.preprocess;
    require(manifest.spec.image_shape == std::array<int, 3>{p.height, p.width, p.channels},
            "Manifest", "preprocess makes another shape than the engines take");
    return manifest;
}

}  // namespace

Manifest parse_manifest(const std::string& text) {
    try {
        return read_manifest(parse_json(text));
    } catch (const SchemaError& error) {
        throw BundleError("manifest.json is not valid: " + plain(error.what()));
    }
}

}  // namespace vit_edge
