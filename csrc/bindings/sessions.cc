// Sessions: what runs one network.
#include <pybind11/stl.h>

#include "bindings/array.h"
#include "bindings/choices.h"
#include "bindings/module.h"
#include "bindings/session_lock.h"
#include "core/error.h"
#include "core/plan.h"
#include "sessions/addressed.h"
#include "sessions/callable.h"
#include "sessions/openvino.h"

namespace ctfast::bindings {

namespace py = pybind11;

namespace {

std::shared_ptr<OpenVINOSession> open_network(const std::shared_ptr<Plan>& plan, const std::string& network,
                                              const std::string& precision, int threads, std::vector<std::string> drop,
                                              std::string cache_dir, const std::optional<std::string>& graph,
                                              std::vector<std::string> half_io) {
  const OpenVINOOptions options{precision_of(precision), threads, std::move(drop), std::move(cache_dir),
                                std::move(half_io)};
  const py::gil_scoped_release unlocked;
  const std::span<const std::byte> xml = plan->section(graph.value_or(network + "/model.xml"));
  const std::string_view text(reinterpret_cast<const char*>(xml.data()), xml.size());
  return std::make_shared<OpenVINOSession>(network, text, plan->section(network + "/model.bin"), plan, options);
}

std::shared_ptr<OpenVINOSession> network_from_bytes(const std::string& xml, const py::bytes& weights,
                                                    const std::string& name, const std::string& precision, int threads,
                                                    std::vector<std::string> drop, std::string cache_dir,
                                                    std::vector<std::string> half_io) {
  const OpenVINOOptions options{precision_of(precision), threads, std::move(drop), std::move(cache_dir),
                                std::move(half_io)};
  const std::string_view memory = weights;
  const std::shared_ptr<const void> owner(weights.inc_ref().ptr(), [](const void* pointer) {
    const py::gil_scoped_acquire lock;
    py::handle(static_cast<PyObject*>(const_cast<void*>(pointer))).dec_ref();
  });
  const py::gil_scoped_release unlocked;
  return std::make_shared<OpenVINOSession>(name, xml, std::as_bytes(std::span(memory)), owner, options);
}

py::dict run(Session& session, const py::dict& inputs) {
  std::vector<py::array> keep;
  std::vector<NamedTensor> views;
  for (const auto& [key, value] : inputs) {
    const auto name = key.cast<std::string>();
    keep.push_back(contiguous(value, name));
    views.emplace_back(name, view_of(keep.back(), name));
  }
  const py::gil_scoped_release unlocked;
  const SessionLock lock(session);
  const std::vector<NamedTensor> results = session.run(views);
  const py::gil_scoped_acquire locked;
  py::dict arrays;
  for (const auto& [name, view] : results) arrays[py::str(name)] = copy_to_array(view);
  return arrays;
}

}  // namespace

void bind_sessions(py::module_& module) {
  py::class_<Session, std::shared_ptr<Session>>(module, "Session")
      .def_property_readonly("inputs", &Session::inputs)
      .def_property_readonly("outputs", &Session::outputs)
      .def("run", &run, py::arg("inputs"));

  py::class_<OpenVINOSession, Session, std::shared_ptr<OpenVINOSession>>(module, "OpenVINOSession")
      .def(py::init(&open_network), py::arg("plan"), py::arg("network"), py::arg("precision"), py::arg("threads") = 0,
           py::arg("drop") = std::vector<std::string>{}, py::arg("cache_dir") = "", py::kw_only(),
           py::arg("graph") = py::none(), py::arg("half_io") = std::vector<std::string>{})
      .def_static("from_bytes", &network_from_bytes, py::arg("xml"), py::arg("weights"), py::kw_only(),
                  py::arg("name") = "network", py::arg("precision") = "fp32", py::arg("threads") = 0,
                  py::arg("drop") = std::vector<std::string>{}, py::arg("cache_dir") = "",
                  py::arg("half_io") = std::vector<std::string>{})
      .def_property_readonly("precision", [](const OpenVINOSession& session) { return word_of(session.precision()); })
      .def_property_readonly("compiled_shapes", &OpenVINOSession::compiled_shapes)
      .def_property_readonly("compiled_operations", &OpenVINOSession::compiled_operations);

  py::class_<CallableSession, Session, std::shared_ptr<CallableSession>>(module, "CallableSession")
      .def(py::init<std::vector<std::string>, std::vector<std::string>, py::function>(), py::arg("inputs"),
           py::arg("outputs"), py::arg("function"));

  py::class_<AddressedSession, Session, std::shared_ptr<AddressedSession>>(module, "AddressedSession")
      .def(py::init<std::vector<std::string>, py::function>(), py::arg("inputs"), py::arg("function"));
}

}  // namespace ctfast::bindings
