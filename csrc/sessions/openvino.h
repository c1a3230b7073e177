// A network run by OpenVINO on the CPU, from an IR held in memory (a plan's sections).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/session.h"

namespace ctfast {

enum class Precision { fp32, bf16, fp16 };

struct OpenVINOOptions {
  // OpenVINO's own default depends on the processor, so it is always set. One that the processor lacks is an error.
  Precision precision = Precision::fp32;
  int threads = 0;                // 0: all that the affinity mask and the container's quota allow
  std::vector<std::string> drop;  // inputs that stay zero: replaced by constants, so that additions of them vanish
  std::string cache_dir;          // where OpenVINO keeps compiled networks between processes; empty: nowhere
  std::vector<std::string> half;  // inputs and outputs that are bfloat16 in memory, where the network has float32
};

class OpenVINOSession : public Session {
 public:
  // `weights` is used in place: `owner` keeps that memory alive as long as the session or one of its networks needs it.
  // `name` stands for the network in messages. Throws Error(device) if OpenVINO cannot read or run the network.
  OpenVINOSession(std::string name, std::string_view xml, std::span<const std::byte> weights,
                  std::shared_ptr<const void> owner, const OpenVINOOptions& options);
  ~OpenVINOSession() override;

  const std::vector<std::string>& inputs() const override;
  const std::vector<std::string>& outputs() const override;

  // Inputs are read where they lie. New input shapes cost a compilation; the last three sets stay compiled.
  // Throws Error(request) for a wrong set of inputs or wrong types, Error(device) and Error(memory) from OpenVINO.
  std::vector<NamedTensor> run(const std::vector<NamedTensor>& inputs) override;
  void run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) override;

  // Compiled networks, with their activations. What run() returned is no longer valid.
  void release_memory() override;

  Precision precision() const;  // as OpenVINO reports it for the network compiled last, or as asked for before that
  int compiled_shapes() const;
  // Operations of the network compiled last, after OpenVINO's own rewriting; empty before the first run. For tests.
  std::vector<std::string> compiled_operations() const;

  static std::string version();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ctfast
