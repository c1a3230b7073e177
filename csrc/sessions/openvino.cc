#include "sessions/openvino.h"

#include <algorithm>
#include <list>
#include <map>
#include <new>
#include <openvino/core/preprocess/pre_post_process.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/openvino.hpp>
#include <sstream>
#include <utility>

#include "core/cpu.h"
#include "core/error.h"

namespace ctfast {

namespace {

constexpr std::size_t kCompiledShapes = 3;

// One for the process, so that sessions share the plugin and its threads. Never destroyed: at exit the plugin's own
// libraries may already be gone.
ov::Core& shared_core() {
  static ov::Core& core = *new ov::Core;
  return core;
}

// OpenVINO's messages start with lines about its source files; the first one after those says what happened.
std::string useful_line(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  std::string fallback;
  while (std::getline(lines, line)) {
    const std::size_t start = line.find_first_not_of(" \t\r");
    if (start == std::string::npos) continue;
    line.erase(0, start);
    if (fallback.empty()) fallback = line;
    const bool is_location =
        line.starts_with("Exception from ") || line.starts_with("Check '") || line.starts_with("While ");
    if (!is_location) return line;
  }
  return fallback.empty() ? "no message" : fallback;
}

// Runs `body`; whatever OpenVINO throws leaves as one of our errors.
template <typename Body>
auto translated(const std::string& what, Body&& body) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::memory, what + ": out of memory. Ask for a smaller size or a smaller decode window.");
  } catch (const std::exception& error) {
    const std::string text = error.what();
    if (text.find("bad_alloc") != std::string::npos || text.find("ould not allocate") != std::string::npos) {
      throw Error(ErrorKind::memory, what + ": out of memory. Ask for a smaller size or a smaller decode window.");
    }
    throw Error(ErrorKind::device, what + ": OpenVINO says: " + useful_line(text));
  }
}

ov::element::Type element_type(DType type) {
  switch (type) {
    case DType::f32: return ov::element::f32;
    case DType::i64: return ov::element::i64;
    case DType::u8: return ov::element::u8;
    case DType::bf16: return ov::element::bf16;
  }
  return ov::element::dynamic;
}

ov::element::Type element_type(Precision precision) {
  switch (precision) {
    case Precision::fp32: return ov::element::f32;
    case Precision::bf16: return ov::element::bf16;
    case Precision::fp16: return ov::element::f16;
  }
  return ov::element::dynamic;
}

// Throws Error(device) where networks would run slower in this precision than in float32, or not at all.
void check_processor(const std::string& network, Precision precision) {
  const CpuFeatures cpu = cpu_features();
  const std::string start = "network '" + network + "': this processor has ";
  if (precision == Precision::bf16 && !cpu.bf16()) {
    throw Error(ErrorKind::device, start + "neither AVX512-BF16 nor AMX-BF16. Ask for fp32.");
  }
  if (precision == Precision::fp16 && !cpu.fp16()) {
    throw Error(ErrorKind::device, start + "no AVX512-FP16. Ask for bf16 or fp32.");
  }
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

// One network compiled for one set of static shapes.
struct Compiled {
  std::vector<ov::Shape> shapes;
  ov::CompiledModel model;
  ov::InferRequest request;
};

}  // namespace

struct OpenVINOSession::Impl {
  std::string name;
  std::shared_ptr<const void> owner;
  OpenVINOOptions options;
  std::shared_ptr<ov::Model> model;
  std::vector<std::string> inputs;
  std::vector<ov::element::Type> input_types;
  std::vector<std::string> outputs;
  std::list<Compiled> compiled;  // the one used last is in front

  void drop_inputs();
  void halve_ports();
  void list_ports();
  Compiled& prepare(const std::vector<ov::Shape>& shapes);
  Compiled& prepare_for(const std::vector<NamedTensor>& given);
  std::vector<const TensorView*> in_order(const std::vector<NamedTensor>& given) const;
};

// A zero of one element in the parameter's rank: it broadcasts everywhere, and OpenVINO removes additions of it.
void OpenVINOSession::Impl::drop_inputs() {
  for (const std::string& dropped : options.drop) {
    std::shared_ptr<ov::op::v0::Parameter> parameter;
    for (const auto& candidate : model->get_parameters()) {
      if (candidate->output(0).get_names().contains(dropped)) parameter = candidate;
    }
    if (!parameter) {
      throw Error(ErrorKind::request, "network '" + name + "' has no input '" + dropped + "' to drop");
    }
    const ov::Rank rank = parameter->get_partial_shape().rank();
    const ov::Shape ones(rank.is_static() ? static_cast<std::size_t>(rank.get_length()) : 0, 1);
    const auto zero = ov::op::v0::Constant::create(parameter->get_element_type(), ones, {0});
    parameter->output(0).replace(zero->output(0));
    model->remove_parameter(parameter);
  }
  if (!options.drop.empty()) model->validate_nodes_and_infer_types();
}

// OpenVINO then converts on the way in and out, or not at all where the network computes in bfloat16 anyway.
void OpenVINOSession::Impl::halve_ports() {
  if (options.half.empty()) return;
  ov::preprocess::PrePostProcessor ports(model);
  const auto wanted = [&](const ov::Output<ov::Node>& port) {
    return std::ranges::any_of(options.half, [&](const std::string& half) { return port.get_names().contains(half); });
  };
  for (std::size_t i = 0; i < model->inputs().size(); ++i) {
    if (wanted(model->input(i))) ports.input(i).tensor().set_element_type(ov::element::bf16);
  }
  for (std::size_t i = 0; i < model->outputs().size(); ++i) {
    if (wanted(model->output(i))) ports.output(i).tensor().set_element_type(ov::element::bf16);
  }
  model = ports.build();
}

void OpenVINOSession::Impl::list_ports() {
  for (const auto& port : model->inputs()) {
    inputs.push_back(port.get_any_name());
    input_types.push_back(port.get_element_type());
  }
  for (const auto& port : model->outputs()) {
    outputs.push_back(port.get_any_name());
    const bool halved = std::ranges::find(options.half, outputs.back()) != options.half.end();
    if (port.get_element_type() != (halved ? ov::element::bf16 : ov::element::f32)) {
      throw Error(ErrorKind::plan, "network '" + name + "': output '" + outputs.back() + "' should be f32 and is " +
                                       port.get_element_type().get_type_name() + ". Build the plan again.");
    }
  }
}

Compiled& OpenVINOSession::Impl::prepare(const std::vector<ov::Shape>& shapes) {
  const auto found = std::ranges::find(compiled, shapes, &Compiled::shapes);
  if (found != compiled.end()) {
    compiled.splice(compiled.begin(), compiled, found);
    return compiled.front();
  }
  // Room is made first: two large networks at a time may be more than fits.
  if (compiled.size() == kCompiledShapes) compiled.pop_back();
  const std::shared_ptr<ov::Model> fixed = model->clone();
  std::map<std::string, ov::PartialShape> by_name;
  for (std::size_t i = 0; i < inputs.size(); ++i) by_name.emplace(inputs[i], shapes[i]);
  fixed->reshape(by_name);
  ov::AnyMap settings{
      ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
      ov::hint::inference_precision(element_type(options.precision)),
      ov::inference_num_threads(options.threads > 0 ? options.threads : available_threads()),
      // A thread tied to a processor waits for whatever else runs there, and all others wait for it at the layer's end.
      ov::hint::enable_cpu_pinning(false),
  };
  if (!options.cache_dir.empty()) settings.emplace(ov::cache_dir(options.cache_dir));
  ov::CompiledModel network = shared_core().compile_model(fixed, "CPU", settings);
  ov::InferRequest request = network.create_infer_request();
  compiled.push_front({shapes, std::move(network), std::move(request)});
  return compiled.front();
}

std::vector<const TensorView*> OpenVINOSession::Impl::in_order(const std::vector<NamedTensor>& given) const {
  std::vector<const TensorView*> ordered;
  ordered.reserve(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto found = std::ranges::find(given, inputs[i], &NamedTensor::first);
    if (found == given.end()) {
      throw Error(ErrorKind::request, "network '" + name + "' needs input '" + inputs[i] + "', which was not given");
    }
    if (element_type(found->second.dtype) != input_types[i]) {
      throw Error(ErrorKind::request, "network '" + name + "': input '" + inputs[i] + "' should be " +
                                          input_types[i].get_type_name() + " and is " +
                                          element_type(found->second.dtype).get_type_name());
    }
    ordered.push_back(&found->second);
  }
  if (given.size() != inputs.size()) {
    std::vector<std::string> names(given.size());
    std::ranges::transform(given, names.begin(), &NamedTensor::first);
    throw Error(ErrorKind::request,
                "network '" + name + "' has inputs " + join(inputs) + " and was given " + join(names));
  }
  return ordered;
}

OpenVINOSession::OpenVINOSession(std::string name, std::string_view xml, std::span<const std::byte> weights,
                                 std::shared_ptr<const void> owner, const OpenVINOOptions& options)
    : impl_(std::make_unique<Impl>()) {
  impl_->name = std::move(name);
  impl_->owner = std::move(owner);
  impl_->options = options;
  check_processor(impl_->name, options.precision);
  translated("reading network '" + impl_->name + "'", [&] {
    // OpenVINO takes a plain pointer but only reads.
    ov::Tensor memory;
    if (!weights.empty()) {
      memory = ov::Tensor(ov::element::u8, {weights.size()}, const_cast<std::byte*>(weights.data()));
    }
    impl_->model = shared_core().read_model(std::string(xml), memory);
    impl_->drop_inputs();
    impl_->halve_ports();
    impl_->list_ports();
  });
}

OpenVINOSession::~OpenVINOSession() = default;

const std::vector<std::string>& OpenVINOSession::inputs() const { return impl_->inputs; }

const std::vector<std::string>& OpenVINOSession::outputs() const { return impl_->outputs; }

Compiled& OpenVINOSession::Impl::prepare_for(const std::vector<NamedTensor>& given) {
  const std::vector<const TensorView*> ordered = in_order(given);
  std::vector<ov::Shape> shapes;
  shapes.reserve(ordered.size());
  for (const TensorView* view : ordered) shapes.emplace_back(view->shape.begin(), view->shape.end());
  Compiled& network = prepare(shapes);
  for (std::size_t i = 0; i < ordered.size(); ++i) {
    network.request.set_input_tensor(i, ov::Tensor(input_types[i], shapes[i], ordered[i]->data));
  }
  return network;
}

std::vector<NamedTensor> OpenVINOSession::run(const std::vector<NamedTensor>& inputs) {
  return translated("running network '" + impl_->name + "'", [&] {
    Compiled& network = impl_->prepare_for(inputs);
    network.request.infer();
    std::vector<NamedTensor> results;
    for (std::size_t i = 0; i < impl_->outputs.size(); ++i) {
      const ov::Tensor tensor = network.request.get_output_tensor(i);
      const bool halved = tensor.get_element_type() == ov::element::bf16;
      results.emplace_back(impl_->outputs[i], TensorView{halved ? DType::bf16 : DType::f32,
                                                         {tensor.get_shape().begin(), tensor.get_shape().end()},
                                                         const_cast<void*>(tensor.data())});
    }
    return results;
  });
}

void OpenVINOSession::run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) {
  translated("running network '" + impl_->name + "'", [&] {
    Compiled& network = impl_->prepare_for(inputs);
    const ov::Output<const ov::Node> port = network.model.output(0);
    const ov::Shape shape(output.shape.begin(), output.shape.end());
    if (impl_->outputs.size() != 1 || port.get_shape() != shape ||
        port.get_element_type() != element_type(output.dtype)) {
      throw Error(ErrorKind::plan,
                  "network '" + impl_->name +
                      "' should have one output of the size that the plan's program says, and has not. "
                      "Build the plan again.");
    }
    network.request.set_output_tensor(0, ov::Tensor(port.get_element_type(), shape, output.data));
    network.request.infer();
  });
}

// OpenVINO's own release_memory() leaves a compiled network the memory of its outputs, as large as all the rest.
void OpenVINOSession::release_memory() { impl_->compiled.clear(); }

Precision OpenVINOSession::precision() const {
  if (impl_->compiled.empty()) return impl_->options.precision;
  const ov::element::Type type = impl_->compiled.front().model.get_property(ov::hint::inference_precision);
  if (type == ov::element::bf16) return Precision::bf16;
  return type == ov::element::f16 ? Precision::fp16 : Precision::fp32;
}

int OpenVINOSession::compiled_shapes() const { return static_cast<int>(impl_->compiled.size()); }

std::vector<std::string> OpenVINOSession::compiled_operations() const {
  std::vector<std::string> types;
  if (impl_->compiled.empty()) return types;
  for (const auto& node : impl_->compiled.front().model.get_runtime_model()->get_ordered_ops()) {
    types.push_back(node->get_rt_info().at("layerType").as<std::string>());
  }
  return types;
}

std::string OpenVINOSession::version() { return ov::get_openvino_version().buildNumber; }

}  // namespace ctfast
