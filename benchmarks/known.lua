-- wrk: get the paths of the file that the first argument names, one after the other, over and over.
local paths = {}
local position = 0

function init(arguments)
    for line in io.lines(arguments[1]) do
        table.insert(paths, wrk.format("GET", line))
    end
    wrk.method = "GET"
end

function request()
    position = position % #paths + 1
    return paths[position]
end

function done(summary, latency)
    io.write(string.format("units %d seconds %f bad %d\n", summary.requests, summary.duration / 1e6,
        summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
