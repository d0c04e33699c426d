// OpenVINO on x86 and Arm CPUs, with the settings of runtime/backends/openvino: the same graph, the
// same arithmetic, and so the same bits as Python's engine gives for a single image.
// Source: OpenVINO C++ API (Core, Model, CompiledModel, InferRequest).
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <openvino/openvino.hpp>

#include "backends.hpp"
#include "openvino_linears.hpp"
#include "processor.hpp"
#include "vit_edge/error.hpp"

namespace vit_edge {
namespace {

// Multiply-adds of an image from which convolutions are faster than products of matrices.
constexpr std::int64_t kLarge = 500'000'000;
#if defined(__x86_64__)
constexpr bool kIsX86 = true;
#else
constexpr bool kIsX86 = false;
#endif

// The last line of OpenVINO's message: the reason, after pages of places.
std::string last_line(const std::exception& error) {
    std::string text = error.what();
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
    const auto start = text.rfind('\n');
    return text.substr(start == std::string::npos ? 0 : start + 1).substr(0, 300);
}

// A folder of this user alone that is gone at the end.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "vit-edge-XXXXXX").string();
        if (mkdtemp(&pattern[0]) == nullptr) {
            throw EngineError(std::string("temporary files cannot be written (") +
                              std::strerror(errno) + "): TMPDIR names another place");
        }
        path_ = pattern;
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    // Writes a file; returns its path.
    std::string write(const std::string& name, const std::string& bytes) const {
        const auto path = path_ / name;
        std::ofstream file(path, std::ios::binary);
        file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
        file.close();
        if (!file) throw EngineError(path.string() + " cannot be written");
        return path.string();
    }

private:
    std::filesystem::path path_;
};

std::shared_ptr<ov::Model> read_model(ov::Core& core, const Blob& blob) {
    if (blob.external.empty()) return core.read_model(blob.data, ov::Tensor());
    const TemporaryFolder folder;  // OpenVINO finds weights by a path only
    for (const auto& [name, bytes] : blob.external) folder.write(name, bytes);
    return core.read_model(folder.write("model.onnx", blob.data));
}

// fp32, or bf16 around 8-bit products where the CPU has it: by itself OpenVINO would compute fp32
// graphs in bf16 too.
ov::element::Type arithmetic(const ov::Core& core, const ov::Model& model) {
    const auto nodes = model.get_ops();
    const bool quantised = std::any_of(nodes.begin(), nodes.end(), [](const auto& node) {
        return std::strcmp(node->get_type_info().name, "FakeQuantize") == 0;
    });
    const auto types = core.get_property("CPU", ov::device::capabilities);
    const bool has_bf16 = std::find(types.begin(), types.end(), "BF16") != types.end();
    return quantised && has_bf16 ? ov::element::bf16 : ov::element::f32;
}

ov::AnyMap properties(const ov::Core& core, const ov::Model& model, std::optional<int> threads) {
    ov::AnyMap map{ov::hint::inference_precision(arithmetic(core, model)),
                   ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    // Pinned to cores, the threads of several processes would share the first ones.
    if (threads || is_limited()) {
        map.insert(ov::inference_num_threads(choose_threads(threads)));
        map.insert(ov::hint::enable_cpu_pinning(false));
    }
    return map;
}

class OpenVinoSession : public Session {
public:
    OpenVinoSession(std::shared_ptr<ov::Core> core, ov::CompiledModel compiled,
                    const EngineSpec& spec, int batch)
        : core_(std::move(core)),
          compiled_(std::move(compiled)),
          request_(compiled_.create_infer_request()),
          spec_(spec),
          batch_(batch) {}

    int fixed_batch() const override { return batch_; }

    std::vector<float> run(const std::uint8_t* frames, int count) override {
        try {
            const auto [height, width, channels] = spec_.image_shape;
            const ov::Shape shape{static_cast<std::size_t>(count), static_cast<std::size_t>(height),
                                  static_cast<std::size_t>(width),
                                  static_cast<std::size_t>(channels)};
            // OpenVINO shares no constant memory, though it only reads inputs.
            request_.set_input_tensor(
                ov::Tensor(ov::element::u8, shape, const_cast<std::uint8_t*>(frames)));
            request_.infer();
            return collect(count);
        } catch (const ov::Exception& error) {
            throw EngineError("OpenVINO failed: " + last_line(error));
        }
    }

private:
    std::vector<float> collect(int count) {
        const auto width = static_cast<std::size_t>(spec_.width());
        std::vector<float> packed(width * count);
        std::size_t start = 0;
        for (const OutputSpec& output : spec_.outputs) {
            const ov::Tensor tensor = request_.get_tensor(output.name);
            const auto size = static_cast<std::size_t>(output.size());
            if (tensor.get_element_type() != ov::element::f32 ||
                tensor.get_size() != size * count) {
                throw EngineError("the output " + output.name + " is not as the manifest says");
            }
            const float* values = tensor.data<const float>();
            for (int i = 0; i < count; ++i) {
                std::copy_n(values + i * size, size, &packed[i * width + start]);
            }
            start += size;
        }
        return packed;
    }

    std::shared_ptr<ov::Core> core_;  // outlives what it compiled
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    EngineSpec spec_;
    int batch_;
};

class OpenVino : public Backend {
public:
    std::string name() const override { return "openvino"; }
    std::string graph_kind() const override { return "cpu"; }
    bool needs_engine() const override { return false; }
    bool has_kernels_for(const std::string&) const override { return true; }
    std::string version() const override { return ov::get_openvino_version().buildNumber; }

    std::unique_ptr<Session> open(const Blob& blob, const EngineSpec& spec,
                                  std::optional<int> threads) override {
        try {
            const auto core = std::make_shared<ov::Core>();
            const auto model = read_model(*core, blob);
            const auto options = properties(*core, *model, threads);
            const auto batch = model->input().get_partial_shape()[0];
            int fixed = 1;
            if (batch.is_static()) {
                fixed = static_cast<int>(batch.get_length());
            } else {
                suit_single_images(*model, spec);
            }
            return std::make_unique<OpenVinoSession>(
                core, core->compile_model(model, "CPU", options), spec, fixed);
        } catch (const ov::Exception& error) {
            throw EngineError("OpenVINO refuses the graph: " + last_line(error));
        }
    }

private:
    // Known shapes spare OpenVINO what it would decide anew in each call, and let Linears be
    // convolutions.
    static void suit_single_images(ov::Model& model, const EngineSpec& spec) {
        const auto [height, width, channels] = spec.image_shape;
        model.reshape(ov::PartialShape{1, height, width, channels});
        const auto linears = find_linears(model);
        std::int64_t macs = 0;
        for (const Linear& linear : linears) macs += linear.macs();
        if (macs >= kLarge && kIsX86) as_convolutions(model, linears);
    }
};

}  // namespace

std::unique_ptr<Backend> make_openvino() { return std::make_unique<OpenVino>(); }

}  // namespace vit_edge
