// The command line: words are lines of the input. It is read as the program reads it; what answers
// at once (list, describe, devices, conform) also runs, in an empty folder of its own, and must end
// with 0, 1 or 2.
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <vector>

#include "cli/command_line.h"
#include "fuzz.h"

namespace {

void enter_empty_folder() {
  static std::string* folder = nullptr;  // outlives the end of the program
  if (folder) return;
  folder = new std::string("/dev/shm/dropin-fuzz-XXXXXX");
  if (!mkdtemp(folder->data()) || chdir(folder->c_str()) != 0)
    dropin::fuzz::broken("no scratch folder");
  std::atexit([] {
    if (chdir("/") == 0) std::filesystem::remove_all(*folder);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  enter_empty_folder();
  std::vector<std::string> words{"dropin"};
  std::istringstream in{std::string(dropin::fuzz::text(data, size))};
  for (std::string w; words.size() < 64 && std::getline(in, w);) {
    for (char& c : w)
      if (c == '/' || c == '\0')
        c = '_';  // paths stay in the folder; a word of a command line has no zero byte
    if (w == "..") w = "__";
    words.push_back(std::move(w));
  }
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  dropin::cli::CommandLine line;
  dropin::cli::add_commands(line);
  int status = 0;
  if (line.read(static_cast<int>(argv.size()), argv.data(), status)) {
    const std::string& first = words[1];
    if (first == "list" || first == "describe" || first == "devices" || first == "conform")
      status = line.act();
  }
  dropin::fuzz::expect(status >= 0 && status <= 2, "the program ends with 0, 1 or 2");
  return 0;
}
