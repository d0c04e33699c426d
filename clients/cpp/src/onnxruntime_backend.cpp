// ONNX Runtime on the CPU, with the settings of runtime/backends/onnxruntime.py.
// Source: ONNX Runtime C++ API (Env, SessionOptions, Session, Value).
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdlib>

#include "backends.hpp"
#include "processor.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

std::string first_line(const std::exception& error) {
    const std::string text = error.what();
    return text.substr(0, std::min<std::size_t>(text.find('\n'), 300));
}

// The process's only environment. Telemetry is off, as in Python: newer releases would write a
// device id and report which models run. ORT_DISABLE_TELEMETRY=0 opts in.
const Ort::Env& environment() {
    static const Ort::Env env = [] {
        setenv("ORT_DISABLE_TELEMETRY", "1", 0);
        return Ort::Env(ORT_LOGGING_LEVEL_FATAL, "vit-edge");
    }();
    return env;
}

class OnnxRuntimeSession : public Session {
public:
    OnnxRuntimeSession(const Blob& blob, const EngineSpec& spec, std::optional<int> threads)
        : spec_(spec), session_(open(blob, threads)) {
        for (const OutputSpec& output : spec_.outputs) names_.push_back(output.name.c_str());
    }

    int fixed_batch() const override { return 0; }

    std::vector<float> run(const std::uint8_t* frames, int count) override {
        try {
            const auto [height, width, channels] = spec_.image_shape;
            const std::array<std::int64_t, 4> shape{count, height, width, channels};
            const auto bytes = static_cast<std::size_t>(count * spec_.image_bytes());
            const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
            // ONNX Runtime shares no constant memory, though it only reads inputs.
            const auto images = Ort::Value::CreateTensor<std::uint8_t>(
                memory, const_cast<std::uint8_t*>(frames), bytes, shape.data(), shape.size());
            const char* input = spec_.input_name.c_str();
            return collect(
                session_.Run(Ort::RunOptions{}, &input, &images, 1, names_.data(), names_.size()),
                count);
        } catch (const Ort::Exception& error) {
            throw EngineError("ONNX Runtime failed: " + first_line(error));
        }
    }

private:
    static Ort::Session open(const Blob& blob, std::optional<int> threads) {
        try {
            Ort::SessionOptions options;
            options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // what fails is said once
            if (threads || is_limited()) options.SetIntraOpNumThreads(choose_threads(threads));
            add_weights(options, blob);
            return {environment(), blob.data.data(), blob.data.size(), options};
        } catch (const Ort::Exception& error) {
            throw EngineError("ONNX Runtime refuses the graph: " + first_line(error));
        }
    }

    // Hands over the contents of the files that a graph names, so that none is opened by name.
    static void add_weights(Ort::SessionOptions& options, const Blob& blob) {
        if (blob.external.empty()) return;
        std::vector<std::string> names;
        std::vector<char*> buffers;
        std::vector<std::size_t> sizes;
        for (const auto& [name, bytes] : blob.external) {
            names.push_back(name);
            buffers.push_back(const_cast<char*>(bytes.data()));  // is only read
            sizes.push_back(bytes.size());
        }
        options.AddExternalInitializersFromFilesInMemory(names, buffers, sizes);
    }

    std::vector<float> collect(const std::vector<Ort::Value>& values, int count) const {
        const auto width = static_cast<std::size_t>(spec_.width());
        std::vector<float> packed(width * count);
        std::size_t start = 0;
        for (std::size_t index = 0; index < values.size(); ++index) {
            const auto size = static_cast<std::size_t>(spec_.outputs[index].size());
            const auto info = values[index].GetTensorTypeAndShapeInfo();
            if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ||
                info.GetElementCount() != size * count) {
                throw EngineError("the output " + spec_.outputs[index].name +
                                  " is not as the manifest says");
            }
            const float* from = values[index].GetTensorData<float>();
            for (int i = 0; i < count; ++i) {
                std::copy_n(from + i * size, size, &packed[i * width + start]);
            }
            start += size;
        }
        return packed;
    }

    EngineSpec spec_;
    std::vector<const char*> names_;  // of `spec_`
    Ort::Session session_;
};

class OnnxRuntime : public Backend {
public:
    std::string name() const override { return "onnxruntime"; }
    std::string graph_kind() const override { return "cpu"; }
    bool needs_engine() const override { return false; }
    bool has_kernels_for(const std::string& precision) const override {
        return precision != "bf16";
    }
    std::string version() const override { return Ort::GetVersionString(); }

    std::unique_ptr<Session> open(const Blob& blob, const EngineSpec& spec,
                                  std::optional<int> threads) override {
        return std::make_unique<OnnxRuntimeSession>(blob, spec, threads);
    }
};

}  // namespace

std::unique_ptr<Backend> make_onnxruntime() { return std::make_unique<OnnxRuntime>(); }

}  // namespace vit_edge
