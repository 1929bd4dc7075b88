-- wrk: every request posts the body in the file that the first argument names.
function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    wrk.method = "POST"
    wrk.body = file:read("*a")
    wrk.headers["Content-Type"] = "application/x-npy"
    file:close()
end

function done(summary, latency)
    io.write(string.format("units %d seconds %f bad %d\n", summary.requests, summary.duration / 1e6,
        summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
