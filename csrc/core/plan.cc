#include "plan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <unordered_set>

#include "file_kind.h"

namespace ctfast {
namespace {

// The header, little-endian (docs/plan_format.md; _HEADER in ctfast/plan.py):
//   0 magic, 8 u32 format version, 12 u32 oldest reader version, 16 u16 x 3 ctfast release of that reader, 22 reserved,
//   24 u64 file size, 32 u64 manifest offset, 40 u64 manifest length, 48 manifest sha256, 80 u64 table offset,
//   88 u32 section count, 92 reserved, 96 table sha256, 128 sha256 of bytes 0 to 127.
constexpr std::string_view kMagic = "CTFASTPL";
constexpr std::size_t kHeaderBytes = 160;
constexpr std::size_t kHeaderChecked = 128;
// A table entry (_ENTRY): 0 u64 offset, 8 u64 length, 16 sha256, 48 u16 name length, 50 reserved, 64 name.
constexpr std::size_t kEntryBytes = 192;
constexpr std::size_t kNameBytes = 128;
constexpr std::uint64_t kAlignment = 4096;
constexpr std::uint32_t kOldestReadable = 1;
constexpr std::size_t kVerifyChunk = std::size_t{4} << 20;

constexpr std::string_view kAgain = "Copy the file again, or build it again with: ctfast build";
constexpr std::string_view kGivePlan = "Give the path of a plan, or build one with: ctfast build";

template <typename Integer>
Integer little_endian(std::span<const std::byte> bytes, std::size_t at) {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i) {
    value = static_cast<Integer>(value | std::to_integer<Integer>(bytes[at + i]) << (8 * i));
  }
  return value;
}

Sha256Digest digest_at(std::span<const std::byte> bytes, std::size_t at) {
  Sha256Digest digest;
  std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), digest.size(), digest.begin());
  return digest;
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Untrusted bytes made safe to show in a message.
std::string printable(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (c >= ' ' && c <= '~' && c != '\\' && c != '\'') {
      text += c;
    } else {
      text += "\\x" + to_hex(std::as_bytes(std::span(&c, 1)));
    }
  }
  return text;
}

// Well-formed as The Unicode Standard, table 3-7, says: no overlong forms, surrogates or values above U+10FFFF.
bool is_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    const std::size_t more = lead < 0x80                   ? 0
                             : lead >= 0xc2 && lead < 0xe0 ? 1
                             : lead >= 0xe0 && lead < 0xf0 ? 2
                             : lead >= 0xf0 && lead < 0xf5 ? 3
                                                           : 4;
    if (more == 4 || text.size() - i <= more) return false;
    for (std::size_t k = 1; k <= more; ++k) {
      unsigned low = 0x80, high = 0xbf;
      if (k == 1) {
        if (lead == 0xe0) low = 0xa0;
        if (lead == 0xed) high = 0x9f;
        if (lead == 0xf0) low = 0x90;
        if (lead == 0xf4) high = 0x8f;
      }
      if (byte(i + k) < low || byte(i + k) > high) return false;
    }
    i += more + 1;
  }
  return true;
}

// What is wrong with a section's name, or nothing.
std::string_view name_problem(std::string_view name) {
  if (name.empty()) return "is empty";
  const auto legal = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == '/' || c == '-';
  };
  if (!std::all_of(name.begin(), name.end(), legal)) return "has characters other than A-Z a-z 0-9 _ . / -";
  if (name.find("..") != name.npos) return "has '..' in it";
  if (name.front() == '/' || name.back() == '/' || name.find("//") != name.npos)
    return "has an empty part around a '/'";
  return {};
}

std::string number(std::uint64_t value) { return std::to_string(value); }

// What is wrong with the file `name`, in pieces, and what to do about it.
[[noreturn]] void refuse(PlanFault fault, const std::string& name, std::initializer_list<std::string_view> what,
                         std::string_view remedy) {
  std::string message = "'";
  for (const char c : name) {  // may be in any script, but must not send control codes to a terminal
    const bool control = static_cast<unsigned char>(c) < ' ' || c == '\x7f';
    message += control ? printable({&c, 1}) : std::string(1, c);
  }
  message += "': ";
  for (const std::string_view piece : what) message += piece;
  message += ". ";
  message += remedy;
  throw PlanRefused(fault, message);
}

void check_size_and_magic(const std::string& name, std::span<const std::byte> bytes) {
  const std::string_view head = as_text(bytes.first(std::min(bytes.size(), kFileKindBytes)));
  const bool ours = head.starts_with(kMagic.substr(0, std::min(head.size(), kMagic.size())));
  const std::optional<FileKind> kind = ours ? std::nullopt : file_kind(bytes);
  const std::string_view looks = kind ? "; it looks like " : "";
  const std::string_view looks_like = kind ? kind->looks_like : "";
  const std::string_view remedy = ours ? kAgain : kind ? kind->remedy : kGivePlan;
  if (bytes.empty()) refuse(PlanFault::size, name, {"the file is empty"}, remedy);
  if (bytes.size() < kHeaderBytes) {
    refuse(PlanFault::size, name,
           {"the file has ", number(bytes.size()), " bytes, fewer than the ", number(kHeaderBytes),
            " of a plan's header", looks, looks_like},
           remedy);
  }
  if (!ours) {
    refuse(PlanFault::magic, name,
           {"this is not a plan: it begins with '", printable(head.substr(0, kMagic.size())), "' where a plan has '",
            kMagic, "'", looks, looks_like},
           remedy);
  }
}

void check_version(const std::string& name, std::span<const std::byte> bytes) {
  const auto version = little_endian<std::uint32_t>(bytes, 8);
  const auto oldest_reader = little_endian<std::uint32_t>(bytes, 12);
  if (oldest_reader > kPlanFormatVersion) {
    const auto release = [&](std::size_t at) { return number(little_endian<std::uint16_t>(bytes, at)); };
    refuse(PlanFault::version, name,
           {"the plan was made for a newer ctfast: it has format version ", number(version),
            " and needs a reader of version ", number(oldest_reader), ", and this ctfast reads version ",
            number(kPlanFormatVersion), "; it needs ctfast ", release(16), ".", release(18), ".", release(20),
            " or newer"},
           "Upgrade with: pip install -U ctfast");
  }
  if (version < kOldestReadable) {
    refuse(PlanFault::version, name,
           {"the plan has format version ", number(version), ", and this ctfast reads from version ",
            number(kOldestReadable), " on"},
           "Build it again with: ctfast build");
  }
}

}  // namespace

Plan::Plan(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

Plan::~Plan() {
  if (mapped_) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::shared_ptr<Plan> Plan::open(const std::string& path) {
  struct Descriptor {
    int fd;
    ~Descriptor() {
      if (fd >= 0) close(fd);
    }
  };
  const auto unreadable = [&](int error) {
    refuse(PlanFault::file, path, {"the file cannot be read: ", std::strerror(error)},
           "Check the path and its permissions");
  };
  struct stat info{};
  // Asked before opening, since opening a pipe would wait for its other end.
  const bool absent = path.find('\0') != path.npos || (stat(path.c_str(), &info) != 0 && errno == ENOENT);
  if (absent) refuse(PlanFault::file, path, {"there is no such file"}, kGivePlan);
  if (info.st_mode == 0) unreadable(errno);
  if (S_ISDIR(info.st_mode)) refuse(PlanFault::file, path, {"this is a folder, not a plan"}, kGivePlan);
  if (!S_ISREG(info.st_mode)) refuse(PlanFault::file, path, {"this is not a regular file"}, kGivePlan);

  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0 || fstat(file.fd, &info) != 0) unreadable(errno);
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return parse({}, path);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (memory == MAP_FAILED) unreadable(errno);
  const std::shared_ptr<Plan> plan(new Plan({static_cast<const std::byte*>(memory), size}, path));
  plan->mapped_ = true;  // from here on the destructor unmaps, also when a check throws
  plan->read_header();
  plan->read_sections(plan->read_table());
  return plan;
}

std::shared_ptr<Plan> Plan::parse(std::span<const std::byte> bytes, std::string name) {
  std::shared_ptr<Plan> plan(new Plan(bytes, std::move(name)));
  plan->read_header();
  plan->read_sections(plan->read_table());
  return plan;
}

void Plan::read_header() {
  check_size_and_magic(name_, bytes_);
  check_version(name_, bytes_);
  if (sha256(bytes_.first(kHeaderChecked)) != digest_at(bytes_, kHeaderChecked)) {
    refuse(PlanFault::header, name_, {"the checksum of the header does not match: the file was altered or damaged"},
           kAgain);
  }
  const auto expected = little_endian<std::uint64_t>(bytes_, 24);
  if (bytes_.size() != expected) {
    const bool shorter = bytes_.size() < expected;
    refuse(shorter ? PlanFault::truncated : PlanFault::appended, name_,
           {shorter ? "the file is truncated: expected " : "bytes were appended to the file: expected ",
            number(expected), " bytes, found ", number(bytes_.size())},
           kAgain);
  }
}

std::span<const std::byte> Plan::read_table() {
  const std::uint64_t size = bytes_.size();
  const auto table_offset = little_endian<std::uint64_t>(bytes_, 80);
  const auto count = little_endian<std::uint32_t>(bytes_, 88);
  if (table_offset < kHeaderBytes || table_offset > size || count > (size - table_offset) / kEntryBytes) {
    refuse(PlanFault::table, name_,
           {"the section table (", number(count), " sections, at byte ", number(table_offset),
            ") does not lie between the header and the end of the file at ", number(size)},
           kAgain);
  }
  const std::span<const std::byte> table = bytes_.subspan(table_offset, count * kEntryBytes);
  if (sha256(table) != digest_at(bytes_, 96)) {
    refuse(PlanFault::table, name_,
           {"the checksum of the section table does not match: the file was altered or damaged"}, kAgain);
  }

  const auto manifest_offset = little_endian<std::uint64_t>(bytes_, 32);
  const auto manifest_length = little_endian<std::uint64_t>(bytes_, 40);
  const std::uint64_t table_end = table_offset + table.size();
  if (manifest_offset < table_end || manifest_offset > size || manifest_length > size - manifest_offset) {
    refuse(PlanFault::manifest, name_,
           {"the manifest (", number(manifest_length), " bytes, at byte ", number(manifest_offset),
            ") does not lie between the section table and the end of the file at ", number(size)},
           kAgain);
  }
  const std::span<const std::byte> manifest = bytes_.subspan(manifest_offset, manifest_length);
  if (sha256(manifest) != digest_at(bytes_, 48)) {
    refuse(PlanFault::manifest, name_, {"the checksum of the manifest does not match: the file was altered or damaged"},
           kAgain);
  }
  manifest_ = as_text(manifest);
  if (!is_utf8(manifest_)) refuse(PlanFault::manifest, name_, {"the manifest is not UTF-8 text"}, kAgain);
  return table;
}

void Plan::read_sections(std::span<const std::byte> table) {
  const std::uint64_t size = bytes_.size();
  const std::size_t count = table.size() / kEntryBytes;
  sections_.reserve(count);
  std::unordered_set<std::string_view> names;
  std::uint64_t end = little_endian<std::uint64_t>(bytes_, 32) + manifest_.size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::span<const std::byte> entry = table.subspan(i * kEntryBytes, kEntryBytes);
    const auto name_length = little_endian<std::uint16_t>(entry, 48);
    const std::string which = std::string("section ").append(number(i + 1)).append(" of ").append(number(count));
    if (name_length > kNameBytes) {
      refuse(PlanFault::name, name_,
             {"the name of ", which, " is too long: at most ", number(kNameBytes), " characters, found ",
              number(name_length)},
             kAgain);
    }
    PlanSection section{.name = as_text(entry.subspan(64, name_length)),
                        .offset = little_endian<std::uint64_t>(entry, 0),
                        .length = little_endian<std::uint64_t>(entry, 8),
                        .sha256 = digest_at(entry, 16)};
    const std::string quoted = std::string("'").append(printable(section.name)).append("'");
    if (const std::string_view problem = name_problem(section.name); !problem.empty()) {
      refuse(PlanFault::name, name_, {"the name of ", which, ", ", quoted, ", ", problem}, kAgain);
    }
    if (!names.insert(section.name).second) {
      refuse(PlanFault::name, name_, {"the name of ", which, ", ", quoted, ", is given twice"}, kAgain);
    }
    if (section.offset > size || section.length > size - section.offset) {
      refuse(PlanFault::bounds, name_,
             {"section ", quoted, " (", number(section.length), " bytes, at byte ", number(section.offset),
              ") reaches past the end of the file at ", number(size)},
             kAgain);
    }
    if (section.offset < end) {
      refuse(PlanFault::overlap, name_,
             {"section ", quoted, " starts at byte ", number(section.offset), ", before what precedes it ends at ",
              number(end)},
             kAgain);
    }
    if (section.offset % kAlignment != 0) {
      refuse(PlanFault::alignment, name_,
             {"section ", quoted, " starts at byte ", number(section.offset), ", not at a multiple of ",
              number(kAlignment)},
             kAgain);
    }
    end = section.offset + section.length;
    sections_.push_back(section);
  }
}

std::string Plan::identity() const { return to_hex(bytes_.subspan(kHeaderChecked, sizeof(Sha256Digest))); }

bool Plan::has_section(std::string_view name) const {
  return std::any_of(sections_.begin(), sections_.end(), [&](const PlanSection& s) { return s.name == name; });
}

std::span<const std::byte> Plan::section(std::string_view name) const {
  std::string all;
  for (const PlanSection& section : sections_) {
    if (section.name == name) return bytes_.subspan(section.offset, section.length);
    all.append(all.empty() ? "" : ", ").append(section.name);
  }
  refuse(PlanFault::no_section, name_,
         {"the plan has no section '", printable(name), "'; it has: ", all.empty() ? "none" : all},
         "Build a plan that has it with: ctfast build");
}

void Plan::verify(const Observer& observer) const {
  std::uint64_t total = 0, done = 0;
  for (const PlanSection& section : sections_) total += section.length;
  const auto tell = [&] {
    report(observer, {"verify", static_cast<std::int64_t>(done), static_cast<std::int64_t>(total)});
  };
  tell();
  for (const PlanSection& section : sections_) {
    Sha256 hash;
    for (auto rest = bytes_.subspan(section.offset, section.length); !rest.empty();) {
      const auto chunk = rest.first(std::min(rest.size(), kVerifyChunk));
      hash.update(chunk);
      rest = rest.subspan(chunk.size());
      done += chunk.size();
      tell();
    }
    const Sha256Digest found = hash.finish();
    if (found != section.sha256) {
      refuse(PlanFault::checksum, name_,
             {"the checksum of section '", section.name, "' does not match (expected ", to_hex(section.sha256),
              ", found ", to_hex(found), "): the file was altered or damaged"},
             kAgain);
    }
  }
  check_padding();
}

// Nothing may hide between the parts: what no checksum covers is zero.
void Plan::check_padding() const {
  const auto table_offset = little_endian<std::uint64_t>(bytes_, 80);
  const auto manifest_offset = little_endian<std::uint64_t>(bytes_, 32);
  std::uint64_t end = kHeaderBytes;
  const auto gap_before = [&](std::uint64_t offset, std::uint64_t length) {
    const auto gap = bytes_.subspan(end, offset - end);
    const auto stray = std::find_if(gap.begin(), gap.end(), [](std::byte b) { return b != std::byte{0}; });
    if (stray != gap.end()) {
      refuse(PlanFault::padding, name_,
             {"byte ", number(end + static_cast<std::uint64_t>(stray - gap.begin())),
              " lies between the parts of the plan and is not zero: the file was altered or damaged"},
             kAgain);
    }
    end = offset + length;
  };
  gap_before(table_offset, sections_.size() * kEntryBytes);
  gap_before(manifest_offset, manifest_.size());
  for (const PlanSection& section : sections_) gap_before(section.offset, section.length);
  gap_before(bytes_.size(), 0);
}

}  // namespace ctfast
