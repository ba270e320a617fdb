// simdjson reading a trace: on demand, and through its document. Built for the instruction set that its flags name, because
// on-demand parsing is compiled into its user.
#include "bench_trace.h"

#include <simdjson.h>

#include <string_view>

namespace
{

// One parser for all runs, as its authors advise: its memory is reused.
simdjson::ondemand::parser ondemand_parser;
simdjson::dom::parser dom_parser;

template <typename Grid> uint64_t product(Grid grid)
{
    uint64_t blocks = 1;
    for (auto factor : grid)
        blocks *= uint64_t(factor);
    return blocks;
}

void take_args(simdjson::ondemand::object args, trace_totals &out)
{
    for (auto field : args) {
        // The raw key compares without a copy.
        simdjson::ondemand::raw_json_string key = field.key();
        if (key == "correlation")
            out.correlation += uint64_t(field.value());
        else if (key == "stream")
            out.stream += uint64_t(field.value());
        else if (key == "grid")
            out.blocks += product(field.value().get_array());
    }
}

void take_event(simdjson::ondemand::object event, trace_totals &out)
{
    std::string_view phase, name, category;
    uint64_t begin = 0, duration = 0;
    trace_totals args = {};
    for (auto field : event) {
        simdjson::ondemand::raw_json_string key = field.key();
        if (key == "ph")
            phase = field.value().get_string();
        else if (key == "name")
            name = field.value().get_string();
        else if (key == "cat")
            category = field.value().get_string();
        else if (key == "ts")
            begin = uint64_t(field.value());
        else if (key == "dur")
            duration = uint64_t(field.value());
        else if (key == "args")
            take_args(field.value().get_object(), args);
    }
    if (phase != "X")
        return;
    out.slices++;
    out.name_bytes += name.size();
    out.category_bytes += category.size();
    out.begin_us += begin;
    out.duration_us += duration;
    out.correlation += args.correlation;
    out.stream += args.stream;
    out.blocks += args.blocks;
}

void take_event(simdjson::dom::object event, trace_totals &out)
{
    std::string_view phase = event["ph"];
    if (phase != "X")
        return;
    out.slices++;
    out.name_bytes += std::string_view(event["name"]).size();
    out.category_bytes += std::string_view(event["cat"]).size();
    out.begin_us += uint64_t(event["ts"]);
    out.duration_us += uint64_t(event["dur"]);
    simdjson::dom::object args;
    if (event["args"].get(args) != simdjson::SUCCESS)
        return;
    uint64_t value;
    simdjson::dom::array grid;
    if (args["correlation"].get(value) == simdjson::SUCCESS)
        out.correlation += value;
    if (args["stream"].get(value) == simdjson::SUCCESS)
        out.stream += value;
    if (args["grid"].get(grid) == simdjson::SUCCESS)
        out.blocks += product(grid);
}

} // namespace

extern "C" int SIMDJSON_ONDEMAND(const char *text, size_t length, trace_totals *out)
try {
    *out = {};
    auto document = ondemand_parser.iterate(text, length, length + simdjson::SIMDJSON_PADDING);
    for (auto event : document["traceEvents"].get_array())
        take_event(event.get_object(), *out);
    return 0;
} catch (const simdjson::simdjson_error &) {
    return -1;
}

extern "C" int SIMDJSON_DOM(const char *text, size_t length, trace_totals *out)
try {
    *out = {};
    simdjson::dom::element document = dom_parser.parse(text, length, false);
    for (simdjson::dom::element event : document["traceEvents"].get_array())
        take_event(event.get_object(), *out);
    return 0;
} catch (const simdjson::simdjson_error &) {
    return -1;
}
