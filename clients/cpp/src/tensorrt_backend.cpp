// TensorRT 10 and 11, or TensorRT for RTX: runs the bundle's prebuilt engines. The build links one
// of the two, which have the same names. Source: TensorRT C++ API (IRuntime, ICudaEngine,
// IExecutionContext); CUDA Runtime API.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>

#include "backends.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

#ifdef VIT_EDGE_TENSORRT_RTX
constexpr const char* kName = "tensorrt-rtx";
#else
constexpr const char* kName = "tensorrt";
#endif

void check(cudaError_t status) {
    if (status != cudaSuccess) {
        throw EngineError(std::string("CUDA failed: ") + cudaGetErrorString(status));
    }
}

// Keeps the first error, which says more than those that follow from it.
class Logger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR && first_.empty()) first_ = message;
    }
    std::string reason() const { return first_.empty() ? "it gives no reason" : first_; }

private:
    std::string first_;
};

class DeviceBuffer {
public:
    explicit DeviceBuffer(std::size_t bytes) { check(cudaMalloc(&address_, bytes)); }
    ~DeviceBuffer() { cudaFree(address_); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    void* get() const { return address_; }

private:
    void* address_ = nullptr;
};

class Stream {
public:
    Stream() { check(cudaStreamCreate(&stream_)); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class TensorRtSession : public Session {
public:
    TensorRtSession(const Blob& blob, const EngineSpec& spec)
        : spec_(spec), runtime_(nvinfer1::createInferRuntime(logger_)) {
        require(runtime_ != nullptr);
        runtime_->setEngineHostCodeAllowed(false);  // an engine is data: it brings no code
        engine_.reset(runtime_->deserializeCudaEngine(blob.data.data(), blob.data.size()));
        require(engine_ != nullptr);
        check_types();
        context_.reset(engine_->createExecutionContext());
        require(context_ != nullptr);
        const auto most = static_cast<std::size_t>(spec_.batch[2]);
        images_ = std::make_unique<DeviceBuffer>(most * spec_.image_bytes());
        require(context_->setTensorAddress(spec_.input_name.c_str(), images_->get()));
        for (const OutputSpec& output : spec_.outputs) {
            outputs_.push_back(
                std::make_unique<DeviceBuffer>(most * output.size() * sizeof(float)));
            require(context_->setTensorAddress(output.name.c_str(), outputs_.back()->get()));
        }
    }

    int fixed_batch() const override { return 0; }

    std::vector<float> run(const std::uint8_t* frames, int count) override {
        const auto [height, width, channels] = spec_.image_shape;
        nvinfer1::Dims shape{};
        shape.nbDims = 4;
        shape.d[0] = count;
        shape.d[1] = height;
        shape.d[2] = width;
        shape.d[3] = channels;
        require(context_->setInputShape(spec_.input_name.c_str(), shape));
        const auto bytes = static_cast<std::size_t>(count * spec_.image_bytes());
        check(
            cudaMemcpyAsync(images_->get(), frames, bytes, cudaMemcpyHostToDevice, stream_.get()));
        require(context_->enqueueV3(stream_.get()));
        const auto row = static_cast<std::size_t>(spec_.width());
        std::vector<float> packed(row * count);
        std::size_t start = 0;
        for (std::size_t i = 0; i < outputs_.size(); ++i) {
            const auto size = static_cast<std::size_t>(spec_.outputs[i].size());
            // Rows of one output become parts of the packed rows.
            check(cudaMemcpy2DAsync(&packed[start], row * sizeof(float), outputs_[i]->get(),
                                    size * sizeof(float), size * sizeof(float), count,
                                    cudaMemcpyDeviceToHost, stream_.get()));
            start += size;
        }
        check(cudaStreamSynchronize(stream_.get()));
        return packed;
    }

private:
    void require(bool good) const {
        if (!good) throw EngineError("TensorRT failed: " + logger_.reason());
    }

    void check_types() const {
        std::map<std::string, nvinfer1::DataType> expected{
            {spec_.input_name, nvinfer1::DataType::kUINT8}};
        for (const OutputSpec& output : spec_.outputs) {
            expected[output.name] = nvinfer1::DataType::kFLOAT;
        }
        std::map<std::string, nvinfer1::DataType> types;
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            const char* name = engine_->getIOTensorName(i);
            types[name] = engine_->getTensorDataType(name);
        }
        if (types != expected) {
            throw EngineError("the engine's tensors are not those that the manifest says");
        }
    }

    EngineSpec spec_;
    // Freed from the last to the first: contexts before engines, engines before their runtime.
    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    Stream stream_;
    std::unique_ptr<DeviceBuffer> images_;
    std::vector<std::unique_ptr<DeviceBuffer>> outputs_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

// The compute capability of the current GPU, as "8.9"; "" if there is none.
std::string compute_capability() {
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        return "";
    }
    return std::to_string(major) + "." + std::to_string(minor);
}

class TensorRt : public Backend {
public:
    std::string name() const override { return kName; }
    std::string graph_kind() const override { return "gpu"; }
    bool needs_engine() const override { return true; }
    bool has_kernels_for(const std::string&) const override { return true; }
    std::string version() const override { return std::to_string(getInferLibVersion()); }

    bool takes(const EngineEntry& engine) const override {
        if (!Backend::takes(engine)) return false;
        const auto& targets = engine.compute_capabilities;
        const std::string here = compute_capability();
        // Without a GPU any will do: `open` says what is missing.
        return targets.empty() || here.empty() ||
               std::find(targets.begin(), targets.end(), here) != targets.end();
    }

    std::unique_ptr<Session> open(const Blob& blob, const EngineSpec& spec,
                                  std::optional<int>) override {
        int devices = 0;
        // Without a driver TensorRT would hand out objects that crash at their first use.
        if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
            throw BackendError("no NVIDIA GPU works here: check the driver with `nvidia-smi`");
        }
        return std::make_unique<TensorRtSession>(blob, spec);
    }
};

}  // namespace

std::unique_ptr<Backend> make_tensorrt() { return std::make_unique<TensorRt>(); }

}  // namespace vit_edge
