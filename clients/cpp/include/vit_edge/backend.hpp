// The interface of libraries that run engines.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vit_edge/bundle.hpp"

namespace vit_edge {

// An opened engine. One thread at a time may use it.
class Session {
public:
    virtual ~Session() = default;
    Session() = default;
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    // The number of frames that one call takes; 0 is any number of the engine's profile.
    virtual int fixed_batch() const = 0;

    // Runs uint8 [count, height, width, channels]; returns float32 [count, width], the outputs of
    // an image side by side. Throws EngineError.
    virtual std::vector<float> run(const std::uint8_t* frames, int count) = 0;
};

// A library that runs engines.
class Backend {
public:
    virtual ~Backend() = default;
    Backend() = default;
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    virtual std::string name() const = 0;
    // Kind of a precision's graphs that it takes: "cpu" or "gpu".
    virtual std::string graph_kind() const = 0;
    // True if it runs the bundle's prebuilt engines rather than its graphs.
    virtual bool needs_engine() const = 0;
    // False for precisions for whose graphs it has no kernels.
    virtual bool has_kernels_for(const std::string& precision) const = 0;
    virtual std::string version() const = 0;
    // False for a prebuilt engine that this device cannot run.
    virtual bool takes(const EngineEntry& engine) const { return engine.backend == name(); }

    // Opens verified bytes with `threads` CPU threads (none: as many as suit the machine).
    // Throws EngineError if they are refused.
    virtual std::unique_ptr<Session> open(const Blob& blob, const EngineSpec& spec,
                                          std::optional<int> threads) = 0;
};

// Names of the backends that this build has, in order of preference.
std::vector<std::string> backend_names();

// Makes the backend of that name. Throws InputError if this build has none.
std::unique_ptr<Backend> make_backend(const std::string& name);

}  // namespace vit_edge
