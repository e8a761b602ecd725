#include <limits>

#include "dropin/retrieval/data_filter.h"

namespace dropin {

namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
std::string_view stripped(std::string_view s) {
  while (!s.empty() && is_space(s.front())) s.remove_prefix(1);
  while (!s.empty() && is_space(s.back())) s.remove_suffix(1);
  return s;
}

void replace_all(std::string& text, std::string_view slot, std::string_view with) {
  for (std::size_t i = text.find(slot); i != std::string::npos; i = text.find(slot, i)) {
    text.replace(i, slot.size(), with);
    i += with.size();
  }
}

}  // namespace

double parse_quality_score(std::string_view answer, bool lenient) {
  constexpr std::string_view kEnd = "</s>";
  std::string_view s = stripped(answer);
  if (s.substr(0, kEnd.size()) == kEnd) s = stripped(s.substr(kEnd.size()));
  if (s.size() >= kEnd.size() && s.substr(s.size() - kEnd.size()) == kEnd)
    s = stripped(s.substr(0, s.size() - kEnd.size()));
  while (lenient && !s.empty() && !is_digit(s.front())) s.remove_prefix(1);
  int value = 0;
  if (s.empty() || !is_digit(s.front())) return std::numeric_limits<double>::quiet_NaN();
  for (; !s.empty() && is_digit(s.front()); s.remove_prefix(1)) {
    value = value * 10 + (s.front() - '0');
    if (value > 100) return std::numeric_limits<double>::quiet_NaN();
  }
  return value;
}

const Json& default_quality_prompts() {
  static const Json prompts = Json::parse(R"({
    "template": "<image>\nCaption: {caption}\n\nCriteria: {criteria}\n\nRate the {aspect} from 0 to 100. The first line of the answer is the whole number alone.",
    "criteria": {
      "image_text_matching": "Does the caption tell what the picture mainly shows, with nothing that is not there?",
      "object_detail_fulfillment": "Are the details of the objects (colour, size, number, place, text) described, and are they right?",
      "caption_text_quality": "Is the caption written well: grammar, choice of words, flow, length and order?",
      "semantic_understanding": "Does the caption add knowledge that cannot be read off the picture alone?"
    }
  })");
  return prompts;
}

std::string quality_prompt(std::string_view metric, std::string_view caption, const Json& prompts) {
  const Json *form = prompts.find("template"), *criteria = prompts.find("criteria");
  DROPIN_CHECK(form && form->is_string() && criteria && criteria->is_object(), OptionError,
               "quality_prompt: prompts expected to hold \"template\", a string, and \"criteria\", "
               "an object");
  const Json* mine = criteria->find(std::string(metric));
  DROPIN_CHECK(mine && mine->is_string(), OptionError, "quality_prompt: no criteria for \"", metric,
               "\", expected a metric of the prompts");
  std::string aspect(metric), text = form->as_string();
  replace_all(aspect, "_", " ");
  replace_all(text, "{criteria}", mine->as_string());
  replace_all(text, "{aspect}", aspect);
  replace_all(text, "{caption}", caption);
  return text;
}

}  // namespace dropin
