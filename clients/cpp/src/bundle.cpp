#include "vit_edge/bundle.hpp"

#include "files.hpp"
#include "onnx_files.hpp"
#include "plain_text.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

constexpr std::int64_t kMaxManifestBytes = 4 << 20;
constexpr std::int64_t kMaxDigestBytes = 4096;

}  // namespace

Bundle Bundle::open(const std::string& path) {
    const auto folder = std::make_shared<const Folder>(Folder::open(path));
    const std::string raw = folder->read("manifest.json", kMaxManifestBytes);
    std::string digest = sha256_hex(raw);
    const std::string line = folder->read("manifest.sha256", kMaxDigestBytes);
    if (line != digest + "  manifest.json\n") {
        throw BundleError(folder->place("manifest.json") +
                          " was altered: its hash is not in manifest.sha256; " + kRemedy);
    }
    return Bundle(folder, std::move(digest), parse_manifest(raw));
}

const std::string& Bundle::path() const { return folder_->path(); }

std::string Bundle::read(const std::string& name) const {
    const auto entry = manifest_.files.find(name);
    if (entry == manifest_.files.end()) {
        throw BundleError("the manifest of " + path() + " lists no file '" + name + "'");
    }
    std::string data = folder_->read(name, entry->second.size, entry->second.size);
    if (sha256_hex(data) != entry->second.sha256) {
        throw BundleError(folder_->place(name) + " was altered: its hash is not the manifest's; " +
                          kRemedy);
    }
    return data;
}

Blob Bundle::read_graph(const Graph& graph) const {
    Blob blob{read(graph.file), {}};
    for (const std::string& file : graph.external) {
        blob.external.emplace(file.substr(file.rfind('/') + 1), read(file));
    }
    for (const std::string& name : external_locations(blob.data)) {
        if (blob.external.count(name) == 0) {
            throw BundleError(folder_->place(graph.file) + " reads '" + plain(name.substr(0, 60)) +
                              "', which the manifest does not list: do not use this bundle");
        }
    }
    return blob;
}

GoldenSamples Bundle::golden() const { return parse_golden(read("golden.npz"), manifest_.spec); }

}  // namespace vit_edge
