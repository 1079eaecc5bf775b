from privkit.cli import main

main()
