// Reader of the plan file: one memory-mapped file that holds a manifest (JSON) and the networks' sections.
// Its twin is ctfast/plan.py, which also writes plans; docs/plan_format.md has the layout. Both readers make the same
// checks in the same order and refuse with the same words, so a change here is a change there and in the document.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"
#include "progress.h"
#include "sha256.h"

namespace ctfast {

// The version of the format this reader was written for.
inline constexpr std::uint32_t kPlanFormatVersion = 1;

// Which check refused, in the order in which the checks are made.
enum class PlanFault {
  file,        // cannot be opened, or is not a regular file
  size,        // shorter than a header
  magic,       // some other kind of file
  version,     // made for a newer ctfast, or too old
  header,      // the header's checksum differs
  truncated,   // shorter than the header says
  appended,    // longer than the header says
  table,       // section table outside the file, or its checksum differs
  manifest,    // manifest outside the file, its checksum differs, or it is not UTF-8
  name,        // a section's name is empty, too long, not legal, or given twice
  bounds,      // a section reaches past the end of the file
  overlap,     // a section starts before the one ahead of it ends
  alignment,   // a section does not start at a multiple of 4096
  checksum,    // verify(): a section's bytes differ
  padding,     // verify(): bytes between sections are not zero
  no_section,  // section(): no such name
};

// Error(ErrorKind::plan) that also tells which check refused.
class PlanRefused : public Error {
 public:
  PlanRefused(PlanFault fault, const std::string& message) : Error(ErrorKind::plan, message), fault_(fault) {}
  PlanFault fault() const noexcept { return fault_; }

 private:
  PlanFault fault_;
};

struct PlanSection {
  std::string_view name;  // points into the plan's memory
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  Sha256Digest sha256{};
};

// All views a plan hands out point into its memory and are valid while the plan lives.
class Plan {
 public:
  // Maps the file and checks everything but the sections' bytes, so that opening costs the same for any size.
  // Throws PlanRefused. The file must not be changed in place while it is mapped; ctfast itself only ever replaces it.
  static std::shared_ptr<Plan> open(const std::string& path);

  // The same checks on memory that the caller keeps alive; `name` stands for the path in messages.
  static std::shared_ptr<Plan> parse(std::span<const std::byte> bytes, std::string name = "plan");

  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const std::string& name() const { return name_; }                       // the path given to open()
  std::string_view manifest() const { return manifest_; }                 // JSON, UTF-8
  const std::vector<PlanSection>& sections() const { return sections_; }  // in file order
  std::uint64_t file_size() const { return bytes_.size(); }

  // SHA-256 of the header in hexadecimal. The header holds the checksums of all the rest, so this identifies the plan.
  std::string identity() const;

  bool has_section(std::string_view name) const;

  // Starts at a multiple of 4096 bytes in the file. Throws PlanRefused, listing what there is, if there is no such one.
  std::span<const std::byte> section(std::string_view name) const;

  // Reads every section and compares its checksum. Reports stage "verify" in bytes and throws what report() throws.
  void verify(const Observer& observer = {}) const;

 private:
  Plan(std::span<const std::byte> bytes, std::string name);
  void read_header();
  std::span<const std::byte> read_table();  // and the manifest
  void read_sections(std::span<const std::byte> table);
  void check_padding() const;

  std::span<const std::byte> bytes_;
  std::string name_;
  bool mapped_ = false;
  std::string_view manifest_;
  std::vector<PlanSection> sections_;
};

}  // namespace ctfast
