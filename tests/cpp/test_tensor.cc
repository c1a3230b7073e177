#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "core/progress.h"
#include "core/session.h"
#include "core/tensor.h"

using ctfast::DType;
using ctfast::ErrorKind;
using ctfast::Tensor;

namespace {

void allocation() {
  const Tensor tensor(DType::f32, {2, 3, 5});
  CHECK(tensor && tensor.view().bytes() == 120 && tensor.f32().size() == 30);
  CHECK(reinterpret_cast<std::uintptr_t>(tensor.view().data) % 64 == 0);
  for (float& value : tensor.f32()) value = 1.5F;
  Tensor same;
  same = tensor;  // copies share memory
  CHECK(same.view().data == tensor.view().data && same.f32()[29] == 1.5F);
  CHECK(!Tensor());
  const Tensor empty(DType::i64, {4, 0});
  CHECK(empty && empty.view().bytes() == 0);
  CHECK(Tensor(DType::i64, {3}).view().bytes() == 24 && Tensor(DType::u8, {}).view().bytes() == 1);
}

void bad_shapes() {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS(ErrorKind::request, "[2, -1]", Tensor(DType::f32, {2, -1}));
  CHECK_THROWS(ErrorKind::memory, "address space", Tensor(DType::f32, {kHuge, kHuge}));
  CHECK_THROWS(ErrorKind::memory, "address space", Tensor(DType::i64, {kHuge}));
}

void reports() {
  std::vector<std::int64_t> seen;
  ctfast::report({}, {"sample", 0, 3});  // nobody listens
  const auto until_one = [&](const ctfast::Progress& progress) {
    seen.push_back(progress.done);
    return progress.done < 1;
  };
  ctfast::report(until_one, {"decode", 0, 3});
  CHECK_THROWS(ErrorKind::cancelled, "'decode' after 1 of 3", ctfast::report(until_one, {"decode", 1, 3}));
  CHECK(seen == (std::vector<std::int64_t>{0, 1}));
}

class NamesOnly : public ctfast::Session {
 public:
  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return inputs_; }
  std::vector<ctfast::NamedTensor> run(const std::vector<ctfast::NamedTensor>& inputs) override { return inputs; }
  void run_into(const std::vector<ctfast::NamedTensor>&, const ctfast::TensorView&) override {}

 private:
  std::vector<std::string> inputs_ = {"latent", "timestep"};
};

void session_inputs() {
  const NamesOnly session;
  CHECK(session.has_input("latent") && session.has_input("timestep") && !session.has_input("spacing"));
}

}  // namespace

int main() {
  check::test("allocation", allocation);
  check::test("bad shapes", bad_shapes);
  check::test("reports", reports);
  check::test("session inputs", session_inputs);
  return check::finish();
}
