// dropin segment: the sentences of a text of any size.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "cli/command_line.h"
#include "cli/output.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/checkpoint.h"
#include "dropin/serialize/model_file.h"
#include "dropin/text/stream.h"
#include "dropin/text/tokenizer.h"

namespace dropin::cli {
namespace {

struct SegmentSettings {
  std::string file, model, options;
  bool rule = false, json = false, offsets = false;
  int64_t window = SegmentStreamOptions().window;
};

// What a file of `dropin train --task segment` or of save() holds.
struct Loaded {
  Box<Module> module;
  TextSegmenter* segmenter = nullptr;
  Tokenizer tokenizer;
};

std::vector<std::string> words_of_model(const std::string& path, const SafetensorsFile& f) {
  Json notes = Json::object();
  if (const std::string* own = f.find_metadata("notes"))
    notes = Json::parse(*own);
  else if (f.find_metadata("state"))
    notes = read_checkpoint(path).notes;
  const Json* list = notes.find("words");
  if (!list)
    fail<FileError>({path, ": it has no vocabulary, as `dropin train --task segment` writes it"});
  std::vector<std::string> words;
  for (std::size_t i = 0; i < list->size(); ++i) words.push_back((*list)[i].as_string());
  return words;
}

Loaded load_segmenter(const SegmentSettings& s) {
  const Json changes = s.options.empty() ? Json::object() : Json::parse(s.options);
  if (!changes.is_object()) fail<OptionError>({"segment: --options ", s.options, " is no object"});
  Loaded r;
  if (s.model.empty()) {
    r.module = make("RuleSegmenter", changes);
  } else {
    const SafetensorsFile f = load_safetensors(s.model);
    const std::string* text = f.find_metadata("model");
    if (!text) fail<FileError>({s.model, ": it does not say which model it holds"});
    Json description = Json::parse(*text);
    const Json* options = description.find("options");
    if (options && options->is_object()) description.set("options", options->with(changes));
    r.module = build_model(description);
    load(*r.module, s.model);
    r.module->eval();
    r.tokenizer = WordTokenizer(words_of_model(s.model, f));
  }
  r.segmenter = dynamic_cast<TextSegmenter*>(r.module.get());
  if (!r.segmenter)
    fail<FileError>({"segment: --model ", s.model, " holds a ", r.module->type(),
                     ", expected a TextSegmenter"});
  return r;
}

void print_segment(const SegmentSettings& s, const TextSpan& span, std::string_view text) {
  if (s.json) {
    Json j = Json::object();
    j.set("begin", span.begin);
    j.set("end", span.end);
    if (span.paragraph >= 0) j.set("paragraph", span.paragraph);
    j.set("text", std::string(text));
    print_line(j.dump());
  } else {
    if (s.offsets) fmt::print("{}\t{}\t", span.begin, span.end);
    print_line(text);
  }
}

int run_segment(const SegmentSettings& s) {
  if (s.rule && !s.model.empty())
    fail<OptionError>({"segment: --rule and --model are both given, expected one of them"});
  const Loaded l = load_segmenter(s);
  std::FILE* in = s.file == "-" ? stdin : std::fopen(s.file.c_str(), "rb");
  if (!in) fail<FileError>({s.file, ": cannot be read"});
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> closing(
      in == stdin ? nullptr : in, [](std::FILE* f) { return std::fclose(f); });
  int64_t count = 0;
  SegmentStreamOptions o;
  o.window = s.window;
  o.limit = std::max(o.limit, o.window);
  auto sink = [&](const TextSpan& span, std::string_view text) {
    print_segment(s, span, text);
    ++count;
  };
  SegmentStream stream(*l.segmenter, sink, l.tokenizer, o);
  std::string buffer(1 << 16, '\0');
  int64_t bytes = 0;
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), in)) {
    stream.push(std::string_view(buffer).substr(0, n));
    bytes += static_cast<int64_t>(n);
    if (std::ferror(stdout)) break;
  }
  if (std::ferror(in)) fail<FileError>({s.file, ": cannot be read to its end"});
  stream.finish();
  finish_output("segment: the segments");
  if (stream.broken())
    fmt::print(stderr,
               "dropin: {}: {} bytes are no UTF-8, the first at {}; they are part of their "
               "segments\n",
               s.file, stream.broken(), stream.first_broken());
  fmt::print(stderr, "{} segments of {} bytes\n", count, bytes);
  return 0;
}

}  // namespace

void add_segment(CommandLine& line) {
  auto s = std::make_shared<SegmentSettings>();
  line.add("segment", "cuts a UTF-8 text into sentences, one a line; it may be larger than memory",
           [s] { return run_segment(*s); })
      .option("FILE", s->file, "the text; -: what comes in", true)
      .flag("--rule", s->rule, "by punctuation (RuleSegmenter); so it is without --model")
      .option("--model", s->model, "a file that `dropin train --task segment --save` wrote")
      .option("--options", s->options,
              "of the segmenter, as JSON: {\"strip_whitespace\": true, \"threshold\": 0.3}")
      .option("--window", s->window, "bytes that are segmented at a time, at least")
      .flag("--offsets", s->offsets, "the first byte and the one behind the last before each")
      .flag("--json", s->json,
            "a JSON object a line: begin, end, text; and paragraph, of a model that finds them");
}

}  // namespace dropin::cli
