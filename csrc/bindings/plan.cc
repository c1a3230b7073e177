// The plan file's reader.
#include "core/plan.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "bindings/module.h"
#include "bindings/observer.h"

namespace ctfast::bindings {

namespace py = pybind11;

namespace {

// Exports a section's bytes through the buffer protocol; a memoryview of it keeps it, and with it the plan, alive.
struct SectionBytes {
  std::shared_ptr<Plan> plan;
  std::span<const std::byte> bytes;
};

py::buffer_info buffer_of(SectionBytes& section) {
  return {reinterpret_cast<const std::uint8_t*>(section.bytes.data()), static_cast<py::ssize_t>(section.bytes.size()),
          /*readonly=*/true};
}

py::list sections_of(const Plan& plan) {
  py::list list;
  for (const PlanSection& section : plan.sections()) {
    list.append(py::make_tuple(section.name, section.offset, section.length, to_hex(section.sha256)));
  }
  return list;
}

}  // namespace

void bind_plan(py::module_& module) {
  py::class_<SectionBytes>(module, "_SectionBytes", py::buffer_protocol()).def_buffer(&buffer_of);
  py::class_<Plan, std::shared_ptr<Plan>>(module, "Plan")
      .def(py::init([](const std::filesystem::path& path) { return Plan::open(path.string()); }), py::arg("path"),
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("name", &Plan::name)
      .def_property_readonly("identity", &Plan::identity)
      .def_property_readonly("file_size", &Plan::file_size)
      .def_property_readonly("manifest", &Plan::manifest)
      .def_property_readonly("sections", &sections_of)
      .def(
          "section",
          [](const std::shared_ptr<Plan>& plan, const std::string& name) {
            return py::memoryview(py::cast(SectionBytes{plan, plan->section(name)}));
          },
          py::arg("name"))
      .def(
          "verify",
          [](const Plan& plan, const py::object& observer) {
            const Observer watch = observer_of(observer);
            const py::gil_scoped_release unlocked;
            plan.verify(watch);
          },
          py::arg("observer") = py::none());
}

}  // namespace ctfast::bindings
