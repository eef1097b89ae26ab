//! Writes the schemas to their files: `cargo xtask schema`.

#![forbid(unsafe_code)]

fn main() -> std::io::Result<()> {
    for schema in netd_schemas::all() {
        std::fs::write(&schema.path, &schema.text)?;
        println!("{}", schema.path.display());
    }
    Ok(())
}
