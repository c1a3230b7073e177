// The plan reader: what it hands out, and for every check the refusal with its fault and its words.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "check.h"
#include "core/file_kind.h"
#include "core/plan.h"
#include "tiny_plan.h"

namespace {

using ctfast::ErrorKind;
using ctfast::Plan;
using ctfast::PlanFault;
using tiny_plan::Bytes;
using tiny_plan::entry;
using tiny_plan::put;
using Change = std::function<void(Bytes&)>;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class TemporaryFile {
 public:
  explicit TemporaryFile(std::span<const std::byte> bytes)
      : path_(std::filesystem::temp_directory_path() / ("ctfast-test-" + std::to_string(getpid()) + ".plan")) {
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

void expect_refused(const std::string& what, PlanFault fault, const std::vector<std::string>& words,
                    const std::function<void()>& body) {
  try {
    body();
  } catch (const ctfast::PlanRefused& refused) {
    const std::string message = refused.what();
    check::that(refused.fault() == fault, __FILE__, __LINE__, what + ": another check refused: " + message);
    for (const std::string& word : words) {
      check::that(message.find(word) != std::string::npos, __FILE__, __LINE__,
                  what + ": no '" + word + "': " + message);
    }
    return;
  }
  check::that(false, __FILE__, __LINE__, what + ": not refused");
}

// Changes the tiny plan, makes its checksums right again unless told otherwise, and expects parse() to refuse it.
void expect_parse_refused(const std::string& what, PlanFault fault, const std::vector<std::string>& words,
                          const Change& change, bool sealed = true) {
  Bytes bytes = tiny_plan::make();
  change(bytes);
  if (sealed) tiny_plan::seal(bytes);
  expect_refused(what, fault, words, [&] { Plan::parse(bytes, "x.plan"); });
}

void sha256_known_answers() {
  const auto hex = [](std::string_view text) { return ctfast::to_hex(ctfast::sha256(std::as_bytes(std::span(text)))); };
  CHECK(hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hex(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

void sha256_in_pieces() {
  Bytes bytes(300);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(7 * i);
  for (std::size_t length = 0; length <= bytes.size(); ++length) {
    const std::span<const std::byte> all = std::span(bytes).first(length);
    ctfast::Sha256 hash;
    for (std::size_t at = 0, piece = 1; at < length; at += piece, piece = piece % 67 + 13) {
      hash.update(all.subspan(at, std::min(piece, length - at)));
    }
    CHECK(hash.finish() == ctfast::sha256(all));
  }
}

void good_plan() {
  const Bytes bytes = tiny_plan::make();
  const TemporaryFile file(bytes);
  for (const auto& plan : {Plan::open(file.path()), Plan::parse(bytes, file.path())}) {
    CHECK(plan->name() == file.path());
    CHECK(plan->manifest() == tiny_plan::kManifest);
    CHECK(plan->file_size() == bytes.size());
    CHECK(plan->identity() == ctfast::to_hex(ctfast::sha256(std::span(bytes).first(128))));
    CHECK(plan->sections().size() == 3);
    CHECK(plan->sections()[1].name == "denoiser/model.bin");
    CHECK(plan->sections()[1].offset == 8192);
    CHECK(plan->has_section("notes") && !plan->has_section("note"));
    CHECK(plan->section("notes").empty());
    const std::span<const std::byte> weights = plan->section("denoiser/model.bin");
    CHECK(text_of(weights) == text_of(std::span(bytes).subspan(8192, 100)));
    plan->verify();
  }
}

void mapping_is_aligned_and_outlives_the_file() {
  const auto plan = [] {
    const TemporaryFile file(tiny_plan::make());
    return Plan::open(file.path());
  }();
  const std::span<const std::byte> weights = plan->section("denoiser/model.bin");
  CHECK(reinterpret_cast<std::uintptr_t>(weights.data()) % 4096 == 0);
  plan->verify();
}

void newer_plan_that_allows_this_reader() {
  Bytes bytes = tiny_plan::make();
  put(bytes, tiny_plan::kVersion, std::uint32_t{9});
  put(bytes, 22, std::uint16_t{0xffff});  // reserved fields may be in use by then
  put(bytes, 92, std::uint32_t{0xffffffff});
  put(bytes, entry(0) + 50, std::uint64_t{0xffffffff});
  tiny_plan::seal(bytes);
  Plan::parse(bytes)->verify();
}

void verify_reports_and_cancels() {
  const Bytes bytes = tiny_plan::make();
  const auto plan = Plan::parse(bytes);
  std::vector<std::int64_t> done;
  plan->verify([&](const ctfast::Progress& progress) {
    CHECK(progress.stage == "verify" && progress.total == 140);
    done.push_back(progress.done);
    return true;
  });
  CHECK((done == std::vector<std::int64_t>{0, 40, 140}));
  CHECK_THROWS(ErrorKind::cancelled, "verify", plan->verify([](const ctfast::Progress&) { return false; }));
}

void refuses_paths() {
  expect_refused("missing", PlanFault::file, {"/no/such.plan", "no such file", "ctfast build"},
                 [] { Plan::open("/no/such.plan"); });
  expect_refused("null in path", PlanFault::file, {"/dev/\\x00null': there is no such file"},
                 [] { Plan::open(std::string("/dev/\0null", 10)); });
  expect_refused("folder", PlanFault::file, {"folder"}, [] { Plan::open("/"); });
  expect_refused("device", PlanFault::file, {"not a regular file"}, [] { Plan::open("/dev/null"); });
  expect_refused("path through a file", PlanFault::file, {"Not a directory", "permissions"},
                 [] { Plan::open("/dev/null/x.plan"); });
  const TemporaryFile empty({});
  expect_refused("empty", PlanFault::size, {"is empty", "Copy"}, [&] { Plan::open(empty.path()); });
}

void refuses_headers() {
  const auto resize = [](std::size_t size) { return [size](Bytes& bytes) { bytes.resize(size); }; };
  expect_parse_refused("cut in the header", PlanFault::size, {"100 bytes", "160", "Copy"}, resize(100), false);
  expect_parse_refused("cut in the magic", PlanFault::size, {"3 bytes", "160", "Copy"}, resize(3), false);
  expect_parse_refused("truncated", PlanFault::truncated, {"expected 16384", "found 16383", "Copy"}, resize(16383),
                       false);
  expect_parse_refused("appended", PlanFault::appended, {"expected 16384", "found 16385", "Copy"}, resize(16385),
                       false);
  expect_parse_refused("foreign", PlanFault::magic, {"'XYZ\\x00\\xff\\x27PL'", "CTFASTPL", "ctfast build"},
                       [](Bytes& bytes) { tiny_plan::put_text(bytes, 0, {"XYZ\0\xff'", 6}); });
  expect_parse_refused("newer", PlanFault::version,
                       {"newer", "version 7", "reader of version 2", "ctfast 0.12.3", "pip install -U ctfast"},
                       [](Bytes& bytes) {
                         put(bytes, tiny_plan::kVersion, std::uint32_t{7});
                         put(bytes, tiny_plan::kOldestReader, std::uint32_t{2});
                         put(bytes, tiny_plan::kRelease + 2, std::uint16_t{12});
                         put(bytes, tiny_plan::kRelease + 4, std::uint16_t{3});
                       });
  expect_parse_refused("version 0", PlanFault::version, {"version 0", "from version 1", "Build it again"},
                       [](Bytes& bytes) { put(bytes, tiny_plan::kVersion, std::uint32_t{0}); });
  for (std::size_t at = 16; at < tiny_plan::kHeaderBytes; ++at) {
    expect_parse_refused(
        "header byte " + std::to_string(at), PlanFault::header, {"header", "altered", "Copy"},
        [at](Bytes& bytes) { bytes[at] ^= std::byte{0x10}; }, false);
  }
}

void refuses_tables_and_manifests() {
  const auto header = [](std::size_t at, std::uint64_t value) { return [=](Bytes& bytes) { put(bytes, at, value); }; };
  for (const std::uint64_t offset : {std::uint64_t{159}, std::uint64_t{16000}, ~std::uint64_t{0}}) {
    expect_parse_refused("table offset", PlanFault::table, {"table", std::to_string(offset), "Copy"},
                         header(tiny_plan::kTableOffset, offset));
  }
  expect_parse_refused("section count", PlanFault::table, {"4294967295 sections"},
                       [](Bytes& bytes) { put(bytes, tiny_plan::kCount, ~std::uint32_t{0}); });
  expect_parse_refused(
      "table byte", PlanFault::table, {"checksum of the section table"},
      [](Bytes& bytes) { bytes[entry(1)] ^= std::byte{1}; }, false);
  for (const std::uint64_t offset : {std::uint64_t{735}, std::uint64_t{16384}, ~std::uint64_t{0}}) {
    expect_parse_refused("manifest offset", PlanFault::manifest, {"manifest", std::to_string(offset), "Copy"},
                         header(tiny_plan::kManifestOffset, offset));
  }
  expect_parse_refused("manifest length", PlanFault::manifest, {"18446744073709551615 bytes"},
                       header(tiny_plan::kManifestLength, ~std::uint64_t{0}));
  expect_parse_refused(
      "manifest byte", PlanFault::manifest, {"checksum of the manifest"},
      [](Bytes& bytes) { bytes[entry(3)] ^= std::byte{1}; }, false);
  // Stray continuation, overlong, surrogate, beyond U+10FFFF, and a character cut short by the end.
  for (const char* bad : {"\x80", "\xc0\xaf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80",
                          "\xe2\x82", "\xf0\x9f\x98"}) {
    expect_parse_refused("UTF-8", PlanFault::manifest, {"not UTF-8"}, [bad](Bytes& bytes) {
      const std::string_view text(bad);
      tiny_plan::put_text(bytes, entry(3) + tiny_plan::kManifest.size() - text.size(), text);
    });
  }
}

void refuses_sections() {
  const auto named = [](std::string name) {
    return [name](Bytes& bytes) {
      put(bytes, entry(1) + tiny_plan::kEntryNameLength, static_cast<std::uint16_t>(name.size()));
      tiny_plan::put_text(bytes, entry(1) + tiny_plan::kEntryName, name.substr(0, 128));
    };
  };
  const std::pair<const char*, const char*> names[] = {{"", "is empty"},
                                                       {"a b", "characters other"},
                                                       {"\xff/x", "'\\xff/x'"},
                                                       {"a/../b", "'..'"},
                                                       {"/a", "empty part"},
                                                       {"a/", "empty part"},
                                                       {"a//b", "empty part"},
                                                       {"notes", "twice"},
                                                       {"a'b\\c", "\\x27b\\x5c"},
                                                       {"gr\xc3\xb6\xc3\x9f"
                                                        "e",
                                                        "gr\\xc3\\xb6"}};
  for (const auto& [name, word] : names) {
    const std::string which = std::string(name) == "notes" ? "section 3 of 3" : "section 2 of 3";
    expect_parse_refused(std::string("name ") + name, PlanFault::name, {which, word, "Copy"}, named(name));
  }
  expect_parse_refused("long name", PlanFault::name, {"at most 128", "found 129"}, named(std::string(129, 'a')));
  Bytes longest = tiny_plan::make();
  named(std::string(128, 'a'))(longest);
  tiny_plan::seal(longest);
  CHECK(Plan::parse(longest)->has_section(std::string(128, 'a')));

  const auto placed = [](std::size_t field, std::uint64_t value) {
    return [=](Bytes& bytes) { put(bytes, entry(1) + field, value); };
  };
  expect_parse_refused("far offset", PlanFault::bounds, {"denoiser/model.bin", "18446744073709547520", "16384"},
                       placed(tiny_plan::kEntryOffset, ~std::uint64_t{0} - 4095));
  expect_parse_refused("long", PlanFault::bounds, {"8193 bytes", "past the end"},
                       placed(tiny_plan::kEntryLength, 8193));
  expect_parse_refused("over the next", PlanFault::overlap, {"'notes' starts at byte 12288", "ends at 12289"},
                       placed(tiny_plan::kEntryLength, 4097));
  expect_parse_refused("over the last", PlanFault::overlap, {"byte 4096", "4136"},
                       placed(tiny_plan::kEntryOffset, 4096));
  expect_parse_refused("over the header", PlanFault::overlap, {"byte 0"}, placed(tiny_plan::kEntryOffset, 0));
  expect_parse_refused("unaligned", PlanFault::alignment, {"byte 8200", "4096"}, placed(tiny_plan::kEntryOffset, 8200));
}

void refuses_on_verify_and_lookup() {
  Bytes bytes = tiny_plan::make();
  bytes[8192 + 99] ^= std::byte{1};
  const auto altered = Plan::parse(bytes, "x.plan");
  expect_refused("altered section", PlanFault::checksum, {"denoiser/model.bin", "expected", "found", "Copy"},
                 [&] { altered->verify(); });
  for (const std::size_t at :
       {entry(3) + tiny_plan::kManifest.size(), std::size_t{4095}, std::size_t{8191}, std::size_t{16383}}) {
    Bytes stray = tiny_plan::make();
    stray[at] = std::byte{1};
    const auto plan = Plan::parse(stray, "x.plan");
    expect_refused("stray byte", PlanFault::padding, {"byte " + std::to_string(at)}, [&] { plan->verify(); });
  }
  const auto good = Plan::parse(bytes);
  expect_refused("no section", PlanFault::no_section, {"'vae'", "denoiser/model.xml, denoiser/model.bin, notes"},
                 [&] { good->section("vae"); });
}

void file_kinds() {
  const auto looks = [](std::string_view head) -> std::string {
    const auto kind = ctfast::file_kind(std::as_bytes(std::span(head)));
    return kind ? std::string(kind->looks_like) : "";
  };
  std::string nifti(352, '\0');
  nifti.replace(344, 3, "n+1");
  std::string torch(200, '\0');
  torch.replace(0, 4, "PK\x03\x04").replace(30, 16, "archive/data.pkl");
  CHECK(looks("\x1f\x8b\x08") == "a gzip archive");
  CHECK(looks("PK\x03\x04 other") == "a zip archive");
  CHECK(looks(torch) == "a PyTorch checkpoint");
  CHECK(looks(std::string_view("\x08\x0a\x12\x07pytorch")) == "an ONNX model");
  CHECK(looks(nifti) == "a NIfTI image");
  CHECK(looks(std::string(512, '\0')).starts_with("a file of zeros"));
  CHECK(looks("").empty() && looks("plain text").empty());
}

}  // namespace

int main() {
  check::test("SHA-256: known answers of FIPS 180-4", sha256_known_answers);
  check::test("SHA-256: any pieces", sha256_in_pieces);
  check::test("a good plan, from a file and from memory", good_plan);
  check::test("the mapping is aligned and outlives the file's name", mapping_is_aligned_and_outlives_the_file);
  check::test("a newer format that allows this reader", newer_plan_that_allows_this_reader);
  check::test("verify reports progress and can be cancelled", verify_reports_and_cancels);
  check::test("refuses paths", refuses_paths);
  check::test("refuses headers", refuses_headers);
  check::test("refuses tables and manifests", refuses_tables_and_manifests);
  check::test("refuses sections", refuses_sections);
  check::test("refuses altered bytes on verify, and unknown names", refuses_on_verify_and_lookup);
  check::test("tells what a foreign file is", file_kinds);
  return check::finish();
}
