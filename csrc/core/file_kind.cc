#include "file_kind.h"

#include <algorithm>

namespace ctfast {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::string_view kBuild = "Build a plan from the checkpoint with: ctfast build";
constexpr std::string_view kPlan = "Give the path of a plan here, and this file as the input";
constexpr std::string_view kUnpack = "If a plan is inside, unpack it first";
constexpr std::string_view kDownload = "Download it again";
constexpr std::string_view kOther = "Give the path of a plan, or build one with: ctfast build";

struct Signature {
  std::size_t offset;
  std::string_view bytes;
  FileKind kind;
};

constexpr Signature kSignatures[] = {
    {0, "\x1f\x8b"sv, {"a gzip archive", kUnpack}},
    {0, "PK\x03\x04"sv, {"a zip archive", kUnpack}},
    {0, "\x28\xb5\x2f\xfd"sv, {"a Zstandard archive", kUnpack}},
    {0, "\xfd\x37zXZ"sv, {"an xz archive", kUnpack}},
    {0, "BZh"sv, {"a bzip2 archive", kUnpack}},
    {257, "ustar"sv, {"a tar archive", kUnpack}},
    {0, "\x80\x02"sv, {"a PyTorch checkpoint of the old kind, or another pickle", kBuild}},
    {4, "\0\0\0\0{\""sv, {"a safetensors file", kBuild}},
    {0, "\x89HDF"sv, {"an HDF5 file", kBuild}},
    {0, "ftrt"sv, {"a TensorRT engine", kOther}},
    {0, "ptrt"sv, {"a TensorRT engine", kOther}},
    {344, "n+1\0"sv, {"a NIfTI image", kPlan}},
    {344, "ni1\0"sv, {"a NIfTI header", kPlan}},
    {4, "n+2\0"sv, {"a NIfTI-2 image", kPlan}},
    {128, "DICM"sv, {"a DICOM file", kPlan}},
    {0, "NRRD"sv, {"an NRRD image", kPlan}},
    {0, "\x89PNG"sv, {"a PNG picture", kPlan}},
    {0, "\x93NUMPY"sv, {"a NumPy array", kPlan}},
    {0, "version https://git-lfs"sv, {"a Git LFS pointer", "Fetch the file itself with: git lfs pull"}},
    {0, "<!DOCTYPE"sv, {"a web page", kDownload}},
    {0, "<!doctype"sv, {"a web page", kDownload}},
    {0, "<html"sv, {"a web page", kDownload}},
    {0, "<?xml"sv, {"an XML file, perhaps an OpenVINO model", kOther}},
    {0, "{"sv, {"a JSON file", kOther}},
    {0,
     "\x7f"
     "ELF"sv,
     {"a program or library", kOther}},
};

bool has(std::string_view text, std::size_t offset, std::string_view bytes) {
  return text.size() >= offset && text.substr(offset).starts_with(bytes);
}

}  // namespace

std::optional<FileKind> file_kind(std::span<const std::byte> head) {
  head = head.first(std::min(head.size(), kFileKindBytes));
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  if (has(text, 0, "PK\x03\x04") && text.find("/data.pkl") != text.npos)
    return FileKind{"a PyTorch checkpoint", kBuild};
  // An ONNX model is a protobuf message whose first field is a small version number and whose next is a string.
  if (text.size() > 2 && text[0] == 8 && text[1] > 0 && text[1] < 32 && text[2] == 18) {
    return FileKind{"an ONNX model", kBuild};
  }
  for (const Signature& signature : kSignatures) {
    if (has(text, signature.offset, signature.bytes)) return signature.kind;
  }
  if (!text.empty() && text.find_first_not_of('\0') == text.npos) {
    return FileKind{"a file of zeros, as an unfinished copy leaves", "Copy it again"};
  }
  return std::nullopt;
}

}  // namespace ctfast
