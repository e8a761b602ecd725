#include "dropin/serialize/checkpoint.h"

#include "dropin/serialize/model_file.h"

namespace dropin {
namespace {

TrainingState parse_state(const std::string& path, const SafetensorsFile& f) {
  const std::string* format = f.find_metadata("format");
  const std::string* text = f.find_metadata("state");
  if (!format || *format != "dropin-checkpoint-1" || !text)
    fail<FileError>({path, ": is not a training checkpoint (format dropin-checkpoint-1)"});
  TrainingState s;
  try {
    const Json j = Json::parse(*text);
    auto field = [&](const char* key) -> const Json& {
      const Json* v = j.find(key);
      if (!v) fail<OptionError>({"no \"", key, "\""});
      return *v;
    };
    s.step = field("step").as_int();
    s.generator.manual_seed(std::stoull(field("seed").as_string()));
    s.generator.set_offset(std::stoull(field("offset").as_string()));
    s.notes = field("notes");
  } catch (const std::exception& e) {
    fail<FileError>({path, ": checkpoint state: ", e.what()});
  }
  return s;
}

}  // namespace

void save_checkpoint(const std::string& path, const Module& model, const Optimizer& optimizer,
                     const TrainingState& state) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (auto& [n, t] : model.state_dict()) tensors.emplace_back("model." + n, t);
  for (auto& [n, t] : optimizer.state_dict()) tensors.emplace_back("optimizer." + n, t);
  Json j = Json::object();
  j.set("step", state.step);
  j.set("seed", std::to_string(state.generator.seed()));  // 64 bits do not fit JSON's numbers
  j.set("offset", std::to_string(state.generator.offset()));
  j.set("notes", state.notes);
  save_safetensors(path, tensors,
                   {{"format", "dropin-checkpoint-1"},
                    {"state", j.dump()},
                    {"model", describe_model(model).dump()}});
}

TrainingState read_checkpoint(const std::string& path) {
  return parse_state(path, load_safetensors(path));
}

TrainingState load_checkpoint(const std::string& path, Module& model, Optimizer& optimizer) {
  const SafetensorsFile f = load_safetensors(path);
  TrainingState s = parse_state(path, f);
  if (!f.unread.empty()) f.get(f.unread[0].name);  // a checkpoint has no such tensors
  StateDict weights, moments;
  for (const auto& [n, t] : f.tensors) {
    if (n.rfind("model.", 0) == 0)
      weights.set(n.substr(6), t);
    else if (n.rfind("optimizer.", 0) == 0)
      moments.set(n.substr(10), t);
    else
      fail<FileError>({path, ": unexpected tensor \"", n, "\" in a checkpoint"});
  }
  const StateDict before = optimizer.state_dict();
  optimizer.load_state_dict(moments);
  try {
    model.load_state_dict(weights);
  } catch (...) {
    optimizer.load_state_dict(before);
    throw;
  }
  return s;
}

}  // namespace dropin
