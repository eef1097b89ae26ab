//! Manual pages and shell completions, generated from the command line that a program really has.
//!
//! Each program writes its own (`PROGRAM generate DIRECTORY`, not shown in its help), and the package takes them in.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Where the pages of a program belong (man(1)): what anybody runs, or what root runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Programs for everybody.
    User,
    /// Daemons and what administers a machine.
    System,
}

impl Section {
    fn number(self) -> &'static str {
        match self {
            Section::User => "1",
            Section::System => "8",
        }
    }
}

/// Writes `man/` (a page for the program and one for each of its subcommands) and `completions/` (bash, zsh, fish) below a directory.
///
/// # Errors
///
/// A file cannot be written.
pub fn write(program: &Command, section: Section, directory: &Path) -> io::Result<()> {
    let (pages, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    // It gives every subcommand its name as a page, `netctl-trust-add`, and its inherited options.
    let mut built = program.clone().disable_help_subcommand(true);
    built.build();
    write_pages(&built, section, &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut program = program.clone();
        let name = program.get_name().to_owned();
        clap_complete::generate_to(shell, &mut program, name, &completions)?;
    }
    Ok(())
}

fn write_pages(command: &Command, section: Section, pages: &Path) -> io::Result<()> {
    let mut page = Vec::new();
    Man::new(command.clone()).section(section.number()).render(&mut page)?;
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    fs::write(pages.join(format!("{name}.{}", section.number())), page)?;
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, section, pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn program_written_has_a_page_for_each_subcommand_and_three_completions() {
        let program = Command::new("tool")
            .about("does things")
            .subcommand(Command::new("look").about("looks").arg(Arg::new("where").long("where")))
            .subcommand(Command::new("secret").hide(true));
        let directory = tempfile::tempdir().unwrap();
        write(&program, Section::System, directory.path()).unwrap();
        let mut names: Vec<String> = fs::read_dir(directory.path().join("man"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["tool-look.8", "tool.8"]);
        let page = fs::read_to_string(directory.path().join("man/tool-look.8")).unwrap();
        assert!(page.contains("tool\\-look") && page.contains("where"), "{page}");
        assert_eq!(fs::read_dir(directory.path().join("completions")).unwrap().count(), 3);
    }
}
