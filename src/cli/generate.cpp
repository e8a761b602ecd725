// dropin generate: text by a model of bytes and any decoder.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "cli/command_line.h"
#include "cli/named_options.h"
#include "cli/output.h"
#include "cli/stop_words.h"
#include "dropin/generation/decoder.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/checkpoint.h"
#include "dropin/serialize/model_file.h"

namespace dropin::cli {
namespace {

constexpr int64_t kMostNew = 256;  // tokens, where neither --max-new nor the decoder says

struct GenerateSettings {
  std::string model, prompt_file, decoder = "GreedyDecoder", device = "cpu";
  std::vector<std::string> prompts, stop;
  int64_t max_new = 0, seed = 0;
  bool json = false;
};

// Those of --prompt, then the lines of --prompt-file.
std::vector<std::string> read_prompt_texts(const GenerateSettings& s) {
  std::vector<std::string> r = s.prompts;
  if (!s.prompt_file.empty()) {
    const std::string all = read_file(s.prompt_file);
    for (std::size_t begin = 0; begin < all.size();) {
      const std::size_t end = std::min(all.find('\n', begin), all.size());
      r.push_back(all.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  if (r.empty())
    fail<OptionError>({"generate: there is no prompt, expected --prompt or --prompt-file"});
  for (std::size_t i = 0; i < r.size(); ++i)
    if (r[i].empty())
      fail<OptionError>({"generate: prompt ", i + 1, " is empty, expected at least one byte"});
  for (const std::string& w : s.stop)
    if (w.empty()) fail<OptionError>({"generate: --stop is empty, expected a word"});
  return r;
}

// A Transformer of bytes, as `dropin train --task text --save` and save() write it.
Box<LanguageModel> load_language_model(const GenerateSettings& s) {
  Box<Module> m = load(s.model);
  auto* transformer = dynamic_cast<Transformer*>(m.get());
  if (!transformer)
    fail<FileError>({"generate: --model ", s.model, " holds a ", m->type(),
                     ", expected a Transformer as `dropin train --task text` writes it"});
  if (load_safetensors(s.model).find_metadata("state")) {
    const Json notes = read_checkpoint(s.model).notes;
    const Json* settings = notes.find("settings");
    const Json* task = settings ? settings->find("task") : nullptr;
    if (task && *task != Json("text"))
      fail<FileError>({"generate: --model ", s.model, " was trained for the task ", task->dump(),
                       ", expected \"text\""});
  }
  if (const int64_t ids = transformer->options().vocab_size; ids != StopWordsLM::kBytes)
    fail<FileError>(
        {"generate: --model ", s.model, " has ", ids, " token ids, expected 256: a byte each"});
  m->to(Device(s.device));
  m.release();
  return Box<LanguageModel>(new TransformerLM(Box<Transformer>(transformer)));
}

// How many tokens are generated; all prompts must leave room for them.
int64_t new_tokens(const GenerateSettings& s, const Json& options,
                   const std::vector<std::string>& prompts, int64_t max_len) {
  const Json* own = options.find("max_new_tokens");
  if (s.max_new < 0)
    fail<OptionError>({"generate: --max-new is ", s.max_new, ", expected at least 1"});
  if (own && s.max_new > 0)
    fail<OptionError>(
        {"generate: --max-new and the decoder's max_new_tokens are both given, "
         "expected one of them"});
  const int64_t asked = own && own->is_int() ? own->as_int() : s.max_new;
  int64_t room = max_len;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto n = static_cast<int64_t>(prompts[i].size());
    if (max_len - n < std::max<int64_t>(asked, 1))
      fail<OptionError>({"generate: prompt ", i + 1, " has ", n, " bytes and ",
                         std::max<int64_t>(asked, 1),
                         " are to be generated, the model holds at most ", max_len, " together"});
    room = std::min(room, max_len - n);
  }
  return asked > 0 ? asked : std::min(room, kMostNew);
}

// The decoder of that name over `model`.
Box<Module> decoder_over(Box<LanguageModel> model, const NamedOptions& named, int64_t count,
                         bool stops) {
  Json options = named.options, base = Json::object();
  base.set("type", "Transformer");  // of the model's ids; the model itself comes in its place
  base.set("vocab_size", model->vocab_size());
  base.set("embed_dim", 4);
  base.set("num_layers", 1);
  options.set("base", base);
  if (!options.find("max_new_tokens")) options.set("max_new_tokens", count);
  if (stops) {
    Json ids = Json::array();
    if (const Json* own = options.find("stop_ids"); own && own->is_array()) ids = *own;
    ids.push_back(StopWordsLM::kStop);
    options.set("stop_ids", ids);
  }
  Box<Module> decoder = make(named.name, options);
  decoder->replace_child("base", Box<Module>(model.release()));
  decoder->eval();
  return decoder;
}

// A prompt a row, padded behind its bytes.
DecodeArgs args_of(const std::vector<std::string>& prompts) {
  std::size_t width = 0;
  std::vector<int64_t> ids, lengths;
  for (const std::string& p : prompts) width = std::max(width, p.size());
  for (const std::string& p : prompts) {
    for (const char c : p) ids.push_back(static_cast<unsigned char>(c));
    ids.resize(ids.size() + width - p.size(), 0);
    lengths.push_back(static_cast<int64_t>(p.size()));
  }
  const auto n = static_cast<int64_t>(prompts.size());
  return {.prompt = tensor(ids, {n, static_cast<int64_t>(width)}),
          .prompt_lengths = tensor(lengths)};
}

// One generated text.
struct Generated {
  std::string text, stopped_by;  // "stop", "end" or "length"; "bans" where nothing may follow
  std::string_view word;         // the stop word, which is no part of the text
  std::vector<int64_t> ids;      // its bytes, the stop word's too
};

Generated generated_text(std::vector<int64_t> ids, int64_t count, const StopWordsLM* stops,
                         const std::vector<int64_t>& ends) {
  Generated g;
  const bool stopped = stops && !ids.empty() && ids.back() == StopWordsLM::kStop;
  if (stopped) ids.pop_back();
  for (const int64_t i : ids) g.text += static_cast<char>(i);
  g.ids = std::move(ids);
  const bool ended =
      !g.ids.empty() && std::find(ends.begin(), ends.end(), g.ids.back()) != ends.end();
  if (stops) g.word = stops->ended_by(g.text);
  g.text.resize(g.text.size() - g.word.size());
  g.stopped_by = !g.word.empty()                               ? "stop"
                 : ended                                       ? "end"
                 : static_cast<int64_t>(g.ids.size()) == count ? "length"
                                                               : "bans";
  return g;
}

void print_generated(const GenerateSettings& s, const std::string& prompt, const Generated& g,
                     double seconds) {
  if (!s.json) return print_line(g.text);
  Json j = Json::object(), ids = Json::array();
  for (const int64_t i : g.ids) ids.push_back(i);
  j.set("prompt", prompt);
  j.set("text", g.text);
  j.set("tokens", ids);
  j.set("seconds", seconds);
  j.set("stopped_by", g.stopped_by);
  if (!g.word.empty()) j.set("stop", g.word);
  print_line(j.dump());
}

std::vector<int64_t> end_ids(const Json& options) {
  std::vector<int64_t> r;
  if (const Json* e = options.find("eos_id"); e && e->is_int()) r.push_back(e->as_int());
  if (const Json* list = options.find("stop_ids"); list && list->is_array())
    for (std::size_t i = 0; i < list->size(); ++i) r.push_back((*list)[i].as_int());
  return r;
}

int run_generate(const GenerateSettings& s) {
  const NamedOptions named = named_options("generate: --decoder " + s.decoder, s.decoder);
  const ComponentInfo& c = registry().find(named.name);
  if (c.family != Decoder::kFamily)
    fail<OptionError>(
        {"generate: --decoder ", named.name, " is a ", c.family, ", expected a Decoder"});
  const std::vector<std::string> prompts = read_prompt_texts(s);
  Box<LanguageModel> model = load_language_model(s);
  const int64_t count = new_tokens(s, named.options, prompts, model->max_len());
  StopWordsLM* stops = nullptr;
  if (!s.stop.empty())
    model = Box<LanguageModel>(stops = new StopWordsLM(std::move(model), s.stop));
  const Box<Module> made = decoder_over(std::move(model), named, count, stops != nullptr);
  auto& decoder = dynamic_cast<Decoder&>(*made);
  Generator generator(static_cast<std::uint64_t>(s.seed));
  DecodeArgs args = args_of(prompts);
  args.generator = &generator;
  const auto start = std::chrono::steady_clock::now();
  const Decoded d = decoder.generate(args);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;

  const std::vector<int64_t> lengths = d.lengths.reshape({-1}).to_vector<int64_t>();
  const auto results = lengths.size() / prompts.size();  // of each prompt
  const Tensor tokens = d.tokens.reshape({-1, d.tokens.size(-1)});
  int64_t total = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    std::vector<int64_t> ids = tokens[static_cast<int64_t>(i)].to_vector<int64_t>();
    ids.resize(static_cast<std::size_t>(lengths[i]));
    const Generated g = generated_text(std::move(ids), count, stops, end_ids(named.options));
    total += static_cast<int64_t>(g.ids.size());
    print_generated(s, prompts[i / results], g, took.count());
  }
  finish_output("generate: the texts");
  fmt::print(stderr, "{} tokens behind {} prompts in {:.2f} s: {:.1f} tokens/s\n", total,
             prompts.size(), took.count(), static_cast<double>(total) / took.count());
  return 0;
}

}  // namespace

void add_generate(CommandLine& line) {
  auto s = std::make_shared<GenerateSettings>();
  line.add("generate", "goes on with texts, by a model of bytes and any decoder",
           [s] { return run_generate(*s); })
      .option("--model", s->model, "a file that `dropin train --task text --save` or save() wrote",
              true)
      .option("--prompt", s->prompts, "a text to go on with; may be repeated")
      .option("--prompt-file", s->prompt_file, "more of them, one a line")
      .option("--decoder", s->decoder, "a Decoder of dropin list: NAME or NAME:{\"option\": value}")
      .option("--max-new", s->max_new,
              "the most bytes that are generated; 0: what the model has room for, at most 256")
      .option("--stop", s->stop, "a text ends before this word, which is left out; may be repeated")
      .option("--seed", s->seed, "of decoders that draw")
      .option("--device", s->device, "cpu or cuda")
      .flag("--json", s->json,
            "a JSON object a line: prompt, text (what is no UTF-8 as U+FFFD), tokens (its bytes), "
            "seconds (of all prompts), stopped_by (stop, end, length or bans), stop (the word)");
}

}  // namespace dropin::cli
