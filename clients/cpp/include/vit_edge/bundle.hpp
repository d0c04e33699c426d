// A bundle on disk: every file is opened once, hashed, and exactly those bytes are used.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "vit_edge/golden.hpp"
#include "vit_edge/manifest.hpp"

namespace vit_edge {

class Folder;

// An ONNX graph and the files with its weights, by their names; or an engine.
struct Blob {
    std::string data;
    std::map<std::string, std::string> external;
};

// A bundle whose manifest is verified; its files are verified as they are read.
class Bundle {
public:
    // Throws BundleError if there is no bundle, or its manifest is altered or not understood.
    static Bundle open(const std::string& path);

    const std::string& path() const;
    const std::string& digest() const { return digest_; }  // SHA-256 of the manifest
    const Manifest& manifest() const { return manifest_; }

    // The verified bytes of a file that the manifest lists. Throws BundleError.
    std::string read(const std::string& name) const;

    // The verified bytes of a graph and its weights. Throws BundleError, also where the graph wants
    // to read files that the manifest does not list.
    Blob read_graph(const Graph& graph) const;

    // The golden samples. Throws BundleError if they do not fit the manifest.
    GoldenSamples golden() const;

private:
    Bundle(std::shared_ptr<const Folder> folder, std::string digest, Manifest manifest)
        : folder_(std::move(folder)), digest_(std::move(digest)), manifest_(std::move(manifest)) {}

    std::shared_ptr<const Folder> folder_;
    std::string digest_;
    Manifest manifest_;
};

}  // namespace vit_edge
