// A bundle opened with a backend and proven on this device: what an application uses.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vit_edge/backend.hpp"
#include "vit_edge/bundle.hpp"

namespace vit_edge {

// Samples that loading runs, as Python's engine at its first load on a device.
inline constexpr int kSamplesAtLoad = 8;

struct EngineOptions {
    std::optional<std::string> precision;  // none: first in the export's order
    std::optional<std::string> backend;    // none: first that this build has for it
    std::optional<int> threads;            // CPU threads; none: what suits the machine
    std::optional<std::int64_t> golden_samples = kSamplesAtLoad;  // none: all
};

class Engine {
public:
    // Opens and proves an engine. Throws BundleError, BackendError or EngineError if it cannot be
    // opened, InputError for unknown names, SelfCheckError if its golden answers are wrong here.
    static Engine load(const std::string& bundle, const EngineOptions& options = {});

    const std::string& precision() const { return precision_; }
    const Backend& backend() const { return *backend_; }
    const Manifest& manifest() const { return bundle_.manifest(); }

    // The golden check of `load`: its samples, and each output's error.
    std::int64_t golden_samples() const { return golden_samples_; }
    const std::vector<GoldenError>& golden_errors() const { return golden_errors_; }
    // The outputs of those samples, float32 [golden_samples, width].
    const std::vector<float>& golden_outputs() const { return golden_outputs_; }

    // Runs uint8 [count, height, width, channels]; returns float32 [count, width], the outputs of
    // an image side by side in the manifest's order. One thread at a time. Throws EngineError.
    std::vector<float> run(const std::vector<std::uint8_t>& frames);

private:
    Engine(Bundle bundle, std::string precision, std::unique_ptr<Backend> backend,
           std::unique_ptr<Session> session)
        : bundle_(std::move(bundle)),
          precision_(std::move(precision)),
          backend_(std::move(backend)),
          session_(std::move(session)) {}
    void prove(const Graph& graph, std::optional<std::int64_t> samples);

    Bundle bundle_;
    std::string precision_;
    std::unique_ptr<Backend> backend_;
    std::unique_ptr<Session> session_;
    std::int64_t golden_samples_ = 0;
    std::vector<GoldenError> golden_errors_;
    std::vector<float> golden_outputs_;
};

}  // namespace vit_edge
