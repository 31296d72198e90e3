mod zoo {
    use super::super::*;
    #[test]
    #[ignore]
    fn zoo() {
        for path in std::env::var("TLS_ZOO").unwrap().split_whitespace() {
            let start = std::time::Instant::now();
            let file = File::open(path).unwrap();
            let found = placement::examine(&file, &DebugFiles::none());
            let took = start.elapsed();
            println!("FILE {path} {took:?}");
            match found {
                Ok(Some(build)) => {
                    println!("  {} {}", build.flavour.as_str(), build.symbols.as_str());
                    for site in build.sites {
                        let calls: Vec<_> = site.calls.iter().map(|c| c.symbol()).collect();
                        let s = |s: Spot| format!("{:#x}{}", s.file_offset, if s.emulated { "e" } else { "S" });
                        let ret = site.ret.map(s);
                        print!(
                            "  {} inner={} {:?} entry {} ret {:?} exits ",
                            calls.join("+"),
                            site.inner,
                            site.form,
                            s(site.entry),
                            ret
                        );
                        match site.exits {
                            Exits::Known(exits) => println!(
                                "{:?}",
                                exits
                                    .iter()
                                    .map(|e| format!("{}:{}:{:?}", e.function, s(e.spot), e.result))
                                    .collect::<Vec<_>>()
                            ),
                            other => println!("{other:?}"),
                        }
                    }
                }
                other => println!("  {other:?}"),
            }
        }
    }
}
