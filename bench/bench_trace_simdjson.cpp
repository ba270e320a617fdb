// simdjson reading a trace: on demand, and through its document. Built for the instruction set that its flags name, because
// on-demand parsing is compiled into its user.
#include "bench_trace.h"

#include <simdjson.h>

#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace
{

// One parser for all runs, as its authors advise: its memory is reused.
simdjson::ondemand::parser ondemand_parser;
simdjson::dom::parser dom_parser;

// What ours makes, too: a table of slices whose names are held once each.
struct slice {
    uint64_t begin_us, duration_us;
    uint32_t name, category, correlation, stream, blocks;
    int64_t pid, tid;
};

class table
{
  public:
    table()
    {
        number(""); // 0: none
    }

    uint32_t number(std::string_view text)
    {
        auto found = numbers_.find(text);
        if (found != numbers_.end())
            return found->second;
        texts_.emplace_back(text);
        uint32_t number = uint32_t(texts_.size() - 1);
        numbers_.emplace(texts_.back(), number);
        return number;
    }

    void add(const slice &s)
    {
        slices_.push_back(s);
    }

    trace_totals sum() const
    {
        trace_totals totals = {};
        for (const slice &s : slices_) {
            totals.slices++;
            totals.name_bytes += texts_[s.name].size();
            totals.category_bytes += texts_[s.category].size();
            totals.begin_us += s.begin_us;
            totals.duration_us += s.duration_us;
            totals.correlation += s.correlation;
            totals.stream += s.stream;
            totals.blocks += s.blocks;
        }
        return totals;
    }

  private:
    std::deque<std::string> texts_; // its elements stay where they are
    std::unordered_map<std::string_view, uint32_t> numbers_;
    std::vector<slice> slices_;
};

template <typename Grid> uint32_t product(Grid grid)
{
    uint64_t blocks = 1;
    for (auto factor : grid)
        blocks *= uint64_t(factor);
    return uint32_t(blocks);
}

void take_args(simdjson::ondemand::object args, slice &out)
{
    for (auto field : args) {
        // The raw key compares without a copy.
        simdjson::ondemand::raw_json_string key = field.key();
        if (key == "correlation")
            out.correlation = uint32_t(uint64_t(field.value()));
        else if (key == "stream")
            out.stream = uint32_t(uint64_t(field.value()));
        else if (key == "grid")
            out.blocks = product(field.value().get_array());
    }
}

// Numbers alone: what is a text, in a handful of events, is 0 here.
int64_t id_of(simdjson::ondemand::value value)
{
    int64_t id = 0;
    if (value.type() == simdjson::ondemand::json_type::number)
        id = value.get_int64();
    return id;
}

void take_event(simdjson::ondemand::object event, table &out)
{
    std::string_view phase, name, category;
    slice s = {};
    for (auto field : event) {
        simdjson::ondemand::raw_json_string key = field.key();
        if (key == "ph")
            phase = field.value().get_string();
        else if (key == "cat")
            category = field.value().get_string();
        else if (key == "name")
            name = field.value().get_string();
        else if (key == "pid")
            s.pid = id_of(field.value());
        else if (key == "tid")
            s.tid = id_of(field.value());
        else if (key == "ts")
            s.begin_us = uint64_t(field.value());
        else if (key == "dur")
            s.duration_us = uint64_t(field.value());
        else if (key == "args")
            take_args(field.value().get_object(), s);
    }
    if (phase != "X")
        return;
    s.name = out.number(name);
    s.category = out.number(category);
    out.add(s);
}

int64_t id_of(simdjson::dom::element value)
{
    int64_t id = 0;
    return value.get(id) == simdjson::SUCCESS ? id : 0;
}

void take_event(simdjson::dom::object event, table &out)
{
    std::string_view phase = event["ph"];
    if (phase != "X")
        return;
    slice s = {};
    s.name = out.number(event["name"]);
    s.category = out.number(event["cat"]);
    s.pid = id_of(event["pid"]);
    s.tid = id_of(event["tid"]);
    s.begin_us = uint64_t(event["ts"]);
    s.duration_us = uint64_t(event["dur"]);
    simdjson::dom::object args;
    if (event["args"].get(args) == simdjson::SUCCESS) {
        uint64_t value;
        simdjson::dom::array grid;
        if (args["correlation"].get(value) == simdjson::SUCCESS)
            s.correlation = uint32_t(value);
        if (args["stream"].get(value) == simdjson::SUCCESS)
            s.stream = uint32_t(value);
        if (args["grid"].get(grid) == simdjson::SUCCESS)
            s.blocks = product(grid);
    }
    out.add(s);
}

} // namespace

extern "C" int SIMDJSON_ONDEMAND(const char *path, trace_totals *out)
try {
    table made;
    simdjson::padded_string text = simdjson::padded_string::load(path);
    auto document = ondemand_parser.iterate(text);
    for (auto event : document["traceEvents"].get_array())
        take_event(event.get_object(), made);
    *out = made.sum();
    return 0;
} catch (const simdjson::simdjson_error &) {
    return -1;
}

extern "C" int SIMDJSON_DOM(const char *path, trace_totals *out)
try {
    table made;
    simdjson::dom::element document = dom_parser.load(path);
    for (simdjson::dom::element event : document["traceEvents"].get_array())
        take_event(event.get_object(), made);
    *out = made.sum();
    return 0;
} catch (const simdjson::simdjson_error &) {
    return -1;
}
