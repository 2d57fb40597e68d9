//! The demo; its parts follow.
pub(crate) mod parts {
    use std::process::ExitCode;
    #[derive(clap::Args, Debug)]
    pub(crate) struct PartArgs {}
    pub(crate) fn run(_: PartArgs) -> ExitCode {
        ExitCode::SUCCESS
    }
}
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}
pub(crate) fn run(_: &Args) -> Result<std::process::ExitCode, crate::failure::Failure> {
    Ok(std::process::ExitCode::SUCCESS)
}
