#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "noise.h"
#include "ops/solver.h"

namespace ctfast {

namespace {

// The graphs take millimetres and region weights times this, as the official networks were trained.
constexpr double kConditionFactor = 100.0;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::request, message); }

// `rows` copies of `values` times the factor, as a float32 [rows, N].
template <std::size_t N>
Tensor repeated(const std::array<double, N>& values, std::int64_t rows) {
  Tensor tensor(DType::f32, {rows, static_cast<std::int64_t>(N)});
  for (std::size_t i = 0; i < tensor.f32().size(); ++i) {
    tensor.f32()[i] = static_cast<float>(values[i % N] * kConditionFactor);
  }
  return tensor;
}

// A noise or velocity prediction of the denoiser: everything about a request that stays the same from step to step is
// prepared once.
class Predictor {
 public:
  Predictor(Session& denoiser, Session* controlnet, const SampleInputs& inputs);

  // Writes the (guided) prediction at (x, t), both of the latent's size.
  void operator()(std::span<const float> x, double t, std::span<float> prediction);

 private:
  void check_guidance() const;
  void prepare_condition();
  NamedTensor fixed_input(const std::string& name);
  void prepare_inputs(const Session& session, std::vector<NamedTensor>& list, const char* network);
  void add_residuals(std::vector<NamedTensor>& list);
  void set_state(std::vector<NamedTensor>& list, const TensorView& latent) const;

  Session& denoiser_;
  Session* controlnet_;
  const SampleInputs& inputs_;
  bool guided_;
  std::int64_t rows_;  // batch of a network call: 2 when guided
  Shape batch_shape_;
  Tensor pair_;  // the latent twice, when guided
  Tensor timestep_;
  TensorView condition_;
  std::vector<Tensor> keep_;  // memory behind the fixed inputs
  std::vector<NamedTensor> denoiser_inputs_;
  std::vector<NamedTensor> controlnet_inputs_;
  std::vector<Tensor> scaled_;  // residuals times the control scale, when it is not 1
};

bool is_residual(const std::string& name) { return name.starts_with("down_residual_") || name == "middle_residual"; }

Predictor::Predictor(Session& denoiser, Session* controlnet, const SampleInputs& inputs)
    : denoiser_(denoiser),
      controlnet_(controlnet),
      inputs_(inputs),
      guided_(inputs.guidance.scale != 0.0),
      rows_(guided_ ? 2 : 1),
      batch_shape_{rows_, inputs.shape[0], inputs.shape[1], inputs.shape[2], inputs.shape[3]},
      timestep_(DType::f32, {rows_}) {
  check_guidance();
  if (guided_) pair_ = Tensor(DType::f32, batch_shape_);
  if (controlnet_ != nullptr) {
    prepare_condition();
    prepare_inputs(*controlnet_, controlnet_inputs_, "controlnet");
  }
  prepare_inputs(denoiser_, denoiser_inputs_, "denoiser");
  if (controlnet_ != nullptr && std::ranges::none_of(denoiser_.inputs(), is_residual)) {
    refuse("a ControlNet was given, but the denoiser takes no residuals: open its session without dropping them");
  }
}

void Predictor::check_guidance() const {
  const Guidance& guidance = inputs_.guidance;
  if (!(guidance.scale >= 0.0) || std::isinf(guidance.scale)) refuse("guidance should be 0 or more and finite");
  if (!guided_) return;
  switch (guidance.kind) {
    case GuidanceKind::none: refuse("guidance above 0 needs a kind: 'modality' or 'tumour'");
    case GuidanceKind::modality:
      if (!denoiser_.has_input("class_label")) refuse("modality guidance needs a denoiser with a class label");
      return;
    case GuidanceKind::tumour:
      if (controlnet_ == nullptr || inputs_.condition.shape.empty() || inputs_.condition.shape[0] != 2) {
        refuse("tumour guidance needs a ControlNet and two condition embeddings, the second without tumours");
      }
  }
}

void Predictor::prepare_condition() {
  const TensorView& given = inputs_.condition;
  if (given.data == nullptr) refuse("the ControlNet needs a condition embedding and none was given");
  if (given.dtype != DType::f32 || given.shape.size() != 5 || given.shape[0] < 1 || given.shape[0] > 2) {
    refuse("the condition embedding should be float32 with axes (1 or 2, channels, x, y, z)");
  }
  condition_ = given;
  condition_.shape[0] = rows_;
  if (given.shape[0] >= rows_) return;
  Tensor twice(DType::f32, condition_.shape);
  std::memcpy(twice.f32().data(), given.data, given.bytes());
  std::memcpy(twice.f32().data() + count(given.shape), given.data, given.bytes());
  condition_ = twice.view();
  keep_.push_back(std::move(twice));
}

// An input that does not change from step to step.
NamedTensor Predictor::fixed_input(const std::string& name) {
  if (name == "class_label") {
    if (!inputs_.class_label) refuse("the network needs a modality class label and none was given");
    Tensor labels(DType::i64, {rows_});
    auto* values = static_cast<std::int64_t*>(labels.view().data);
    values[0] = *inputs_.class_label;
    if (guided_) values[1] = 0;
    keep_.push_back(std::move(labels));
  } else if (name == "spacing") {
    if (!inputs_.spacing) refuse("the network needs a voxel spacing and none was given");
    keep_.push_back(repeated(*inputs_.spacing, rows_));
  } else if (name == "top_region" || name == "bottom_region") {
    const auto& region = name == "top_region" ? inputs_.top_region : inputs_.bottom_region;
    if (!region) refuse("the network needs '" + name + "' and none was given");
    keep_.push_back(repeated(*region, rows_));
  } else {
    throw Error(ErrorKind::plan, "the network wants an input '" + name + "' that this ctfast does not know");
  }
  return {name, keep_.back().view()};
}

void Predictor::prepare_inputs(const Session& session, std::vector<NamedTensor>& list, const char* network) {
  for (const std::string& name : session.inputs()) {
    if (name == "latent") {
      list.emplace_back(name, TensorView{});
    } else if (name == "timestep") {
      list.emplace_back(name, timestep_.view());
    } else if (name == "condition_embedding") {
      list.emplace_back(name, condition_);
    } else if (is_residual(name)) {
      if (controlnet_ == nullptr) {
        refuse(std::string("the ") + network + " takes ControlNet residuals ('" + name +
               "'): give a ControlNet, or open the session with these inputs dropped");
      }
      list.emplace_back(name, TensorView{});
    } else {
      list.push_back(fixed_input(name));
    }
  }
}

void Predictor::set_state(std::vector<NamedTensor>& list, const TensorView& latent) const {
  for (auto& [name, view] : list) {
    if (name == "latent") view = latent;
  }
}

// Points the denoiser's residual inputs at the ControlNet's outputs. A scale other than 1 goes through memory of our
// own: the outputs belong to the session.
void Predictor::add_residuals(std::vector<NamedTensor>& list) {
  const std::vector<NamedTensor> residuals = controlnet_->run(controlnet_inputs_);
  const auto scale = static_cast<float>(inputs_.control_scale);
  std::size_t used = 0;
  for (auto& [name, view] : list) {
    if (!is_residual(name)) continue;
    view = find_tensor(residuals, name);
    if (inputs_.control_scale == 1.0) continue;
    if (used == scaled_.size()) scaled_.emplace_back(DType::f32, view.shape);
    std::ranges::transform(view.f32(), scaled_[used].f32().begin(), [scale](float r) { return r * scale; });
    view = scaled_[used++].view();
  }
}

void Predictor::operator()(std::span<const float> x, double t, std::span<float> prediction) {
  TensorView latent{DType::f32, batch_shape_, const_cast<float*>(x.data())};  // networks only read their inputs
  if (guided_) {
    std::ranges::copy(x, pair_.f32().begin());
    std::ranges::copy(x, pair_.f32().begin() + static_cast<std::ptrdiff_t>(x.size()));
    latent = pair_.view();
  }
  std::ranges::fill(timestep_.f32(), static_cast<float>(t));
  set_state(denoiser_inputs_, latent);
  if (controlnet_ != nullptr) {
    set_state(controlnet_inputs_, latent);
    add_residuals(denoiser_inputs_);
  }
  const std::vector<NamedTensor> results = denoiser_.run(denoiser_inputs_);
  const TensorView& result = find_tensor(results, "prediction");
  if (result.shape != batch_shape_) {
    throw Error(ErrorKind::plan, "the denoiser's prediction does not have the latent's shape. Build the plan again.");
  }
  const std::span<const float> conditional = result.f32().first(x.size());
  if (!guided_) {
    std::ranges::copy(conditional, prediction.begin());
    return;
  }
  const std::span<const float> plain = result.f32().subspan(x.size());
  const auto scale = static_cast<float>(inputs_.guidance.scale);
  for (std::size_t i = 0; i < prediction.size(); ++i) {
    prediction[i] = ops::guided(conditional[i], plain[i], scale);
  }
}

std::size_t count_not_finite(std::span<const float> values) {
  return static_cast<std::size_t>(std::ranges::count_if(values, [](float v) { return !std::isfinite(v); }));
}

Tensor initial_latent(const SampleInputs& inputs) {
  if (std::ranges::any_of(inputs.shape, [](std::int64_t extent) { return extent < 1; })) {
    refuse("every extent of the latent's shape should be at least 1");
  }
  Tensor latent(DType::f32, {inputs.shape.begin(), inputs.shape.end()});
  if (inputs.latents.data == nullptr) {
    if (inputs.sample >= kMaxSample) refuse("sample numbers should be below 2^48");
    fill_normal(inputs.seed, inputs.sample, 0, latent.f32());
    return latent;
  }
  if (inputs.latents.dtype != DType::f32 || inputs.latents.shape != latent.shape()) {
    refuse("the initial latents should be float32 and have the latent's shape (channels, x, y, z)");
  }
  const std::size_t bad = count_not_finite(inputs.latents.f32());
  if (bad != 0) refuse("the initial latents hold " + std::to_string(bad) + " values that are not finite");
  std::memcpy(latent.f32().data(), inputs.latents.data, inputs.latents.bytes());
  return latent;
}

}  // namespace

Tensor sample(Session& denoiser, Session* controlnet, const SampleInputs& inputs, const Observer& observer) {
  Tensor latent = initial_latent(inputs);
  Predictor predictor(denoiser, controlnet, inputs);
  const auto predict = [&predictor](std::span<const float> x, double t, std::span<float> out) { predictor(x, t, out); };
  if (const auto* flow = std::get_if<FlowRun>(&inputs.schedule)) {
    integrate(flow->solver, flow->grid, predict, latent.f32(), observer);
  } else if (const auto* ddpm = std::get_if<DdpmRun>(&inputs.schedule)) {
    ddpm_sample(ddpm->schedule, ddpm->steps, predict, inputs.seed, inputs.sample, latent.f32(), observer);
  } else {
    const auto& ddim = std::get<DdimRun>(inputs.schedule);
    ddim_sample(ddim.schedule, ddim.steps, ddim.options, predict, inputs.seed, inputs.sample, latent.f32(), observer);
  }
  const std::size_t bad = count_not_finite(latent.f32());
  if (bad != 0) {
    throw Error(ErrorKind::device, "the sampled latent holds " + std::to_string(bad) + " of " +
                                       std::to_string(count(latent.shape())) +
                                       " values that are not finite: the network overflowed. Try precision fp32, or "
                                       "less guidance; if it stays, the plan's weights are damaged (ctfast verify).");
  }
  return latent;
}

}  // namespace ctfast
