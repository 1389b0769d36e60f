//! Command: the one binary: parse, listen for the log level, run, exit; and a mission's runner, which needs less.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = aiwg_rs::cli::runner::run_if_asked() {
        return code;
    }
    let arguments = aiwg_rs::cli::Arguments::read();
    let flush = aiwg_rs::telemetry::install(arguments.log_directives(), arguments.logging.log_format);
    let _flush = match flush {
        Ok(flush) => flush,
        Err(error) => return aiwg_rs::cli::exit::report(&error),
    };
    aiwg_rs::net::http::install_tls();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return aiwg_rs::cli::exit::report(
                &anyhow::Error::new(error).context("failed to start the runtime"),
            );
        }
    };
    let code = match runtime.block_on(aiwg_rs::cli::run(arguments)) {
        Ok(code) => code.into(),
        Err(error) => aiwg_rs::cli::exit::report(&error),
    };
    // Blocking reads of a terminal or a pipe must not hold up the end.
    runtime.shutdown_background();
    code
}
